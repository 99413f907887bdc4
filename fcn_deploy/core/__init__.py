"""Errors, the model spec, the run directory, atomic files.  Standard library only."""
