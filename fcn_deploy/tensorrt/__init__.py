"""TensorRT engines: built, stored, matched to a graph and a GPU, executed.  No torch."""
