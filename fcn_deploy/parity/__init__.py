"""Compares the masks of runners, judges the difference and finds its cause.  No torch."""
