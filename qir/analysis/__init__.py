"""What can be proved about a program."""
