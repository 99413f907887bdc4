"""Accuracy against latency: networks trained alike on CamVid, for docs/which-network.md."""
