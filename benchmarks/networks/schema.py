"""Kind and schema of the recorded file, for those who read it without PyTorch."""

from __future__ import annotations

NETWORKS, NETWORKS_SCHEMA = "networks", 1
