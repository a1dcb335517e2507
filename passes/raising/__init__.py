"""Passes that raise decomposed forms, as frontends write them, to the ops that they mean."""
