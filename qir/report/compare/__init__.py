"""Where the accuracy of an integer program went: value by value, and what would bring it back."""
