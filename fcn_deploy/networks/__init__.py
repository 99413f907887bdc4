"""The network itself. Torch."""
