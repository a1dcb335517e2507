"""What people read about a program."""
