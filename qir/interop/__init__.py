"""What QIR takes from other libraries beyond their documented interface."""
