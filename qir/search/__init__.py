"""Which values and weights of a program need more bits: found by measuring, kept as a recipe."""
