"""How fast programs are on this machine."""
