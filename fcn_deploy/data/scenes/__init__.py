"""The built-in synthetic scenes: training pictures that need no download."""
