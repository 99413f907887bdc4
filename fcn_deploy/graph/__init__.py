"""ONNX files, seen and rewritten. No torch."""
