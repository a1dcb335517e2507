"""How each op is written in JAX, one file per family of ops."""
