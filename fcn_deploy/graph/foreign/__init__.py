"""ONNX files of other tools: read, understood and rewritten as deploy graphs.  No torch."""
