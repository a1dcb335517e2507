"""Passes over programs with codes."""
