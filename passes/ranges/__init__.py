"""Passes that find the ranges of values."""
