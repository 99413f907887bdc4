"""Scores the masks of backends against labels, with intervals, side by side.  No torch."""
