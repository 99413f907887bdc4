"""Which machine and which versions a figure was measured with: data that rides in every result."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

#: Distributions whose versions decide masks and speed.
DISTRIBUTIONS = (
    "fcn-deploy", "numpy", "pillow", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime",
    "onnxruntime-gpu", "tensorrt", "openvino",
)  # fmt: skip


def describe_machine() -> dict[str, Any]:
    """Return CPU model, cores, memory, system and Python, as JSON values."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def describe_versions() -> dict[str, str]:
    """Return the installed version of each distribution that matters; absent ones are left out."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def usable_cores() -> int:
    """Return how many cores this process may use (its affinity, not what the box holds)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):  # not on every system
        return None
