"""Annotations of other programs as a folder of images and masks."""
