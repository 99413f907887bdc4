"""Engines: planned, built, stored, matched, executed. No torch."""
