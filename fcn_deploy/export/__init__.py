"""Checkpoint to ONNX. Torch."""
