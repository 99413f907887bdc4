"""Reads, measures, quantizes and rewrites ONNX graphs.  No torch."""
