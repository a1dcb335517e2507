"""One kind of code a file."""
