"""The rules of every family of ops; importing one fills the table of `cover`."""

from qir.backends.xla.cpu.covers import dense

__all__ = ["dense"]
