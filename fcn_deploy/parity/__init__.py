"""Are the masks the same, where not, and why not. No torch."""
