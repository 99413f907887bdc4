"""Segments a folder of pictures and writes the masks."""
