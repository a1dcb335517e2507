"""The reference interpreter: runs a graph by the numpy definitions of its ops."""
