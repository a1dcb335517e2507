"""Frontends: readers of other representations of models, named by the format they read."""
