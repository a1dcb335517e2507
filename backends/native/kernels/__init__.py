"""The kernels of every family of ops: what a plan knows of them; a backend writes their code."""
