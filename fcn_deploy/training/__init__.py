"""Labelled images to a checkpoint. Torch."""
