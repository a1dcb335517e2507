"""Passes that choose codes."""
