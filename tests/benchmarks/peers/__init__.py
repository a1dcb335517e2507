"""QIR's integer programs on CPU beside those of other runtimes, on the same networks.

The runtimes are the extra `bench`; QIR never depends on them.
"""
