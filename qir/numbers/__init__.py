"""Exact numbers: intervals and the arithmetic of integers."""
