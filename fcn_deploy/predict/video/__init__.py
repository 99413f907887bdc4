"""Films and cameras → masks with the time stamps of the frames; needs PyAV, the extra `video`."""
