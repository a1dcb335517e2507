"""What passes import: no pass itself."""
