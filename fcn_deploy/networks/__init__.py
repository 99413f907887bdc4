"""The segmentation networks, their checkpoints and the deploy graph, in PyTorch."""
