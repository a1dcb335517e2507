"""Generated kernels for the CPU: machine code that one call of the XLA program runs in parallel."""
