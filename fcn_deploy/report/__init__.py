"""The HTML report of a run, or of several result files."""
