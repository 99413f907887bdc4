"""The ncnn backend."""
