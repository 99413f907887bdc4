"""The OpenVINO backends."""
