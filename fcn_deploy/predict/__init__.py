"""Masks for a folder."""
