"""Trains a segmentation network from labelled images, in PyTorch."""
