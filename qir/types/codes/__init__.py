"""What stored integers mean: one kind of code a file."""
