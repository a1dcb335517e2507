"""Passes over floating-point programs."""
