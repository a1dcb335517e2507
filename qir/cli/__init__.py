"""The commands of `qir`, one file each."""
