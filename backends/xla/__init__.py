"""The XLA backend: a graph as one jittable function of arrays."""
