"""Measures how fast runners are, and under which conditions.  No torch."""
