"""Passes: one file each, named in pipelines by its register name."""
