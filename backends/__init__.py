"""Backends: ways to run or write out a graph."""
