"""Where QIR meets other libraries: what it takes beyond their documented interface, registries."""
