"""The drawn pictures that need no download."""
