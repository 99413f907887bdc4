"""Which machine and which versions a figure was measured with: stored in every result file."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from fcn_deploy.core.version import VERSION

#: Distributions whose versions decide masks and speed, our own first.
DISTRIBUTIONS = (
    "fcn-deploy", "numpy", "pillow", "torch", "torchvision", "onnx",
    "onnxscript", "onnxruntime", "onnxruntime-gpu", "tensorrt", "openvino", "ncnn",
    "mlcommons-loadgen", "nvidia-ml-py",
)  # fmt: skip
#: Instructions that decide how fast a network computes, as Linux names them: x86, then ARM.
SPEED_FLAGS = (
    "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_CPU_INFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Return CPU model and flags, cores, memory, system and Python, as JSON values."""
    return {
        "cpu": _cpu_model(),
        "cpu_flags": cpu_flags(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def describe_versions() -> dict[str, str]:
    """Return the installed version of each distribution that matters; absent ones are left out."""
    # Ours from the code that runs, which may lie beside an older installation's metadata.
    versions = {"fcn-deploy": VERSION}
    for name in DISTRIBUTIONS[1:]:
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


def cpu_flags() -> list[str]:
    """Return which of :data:`SPEED_FLAGS` the CPU has, in that order; empty where unknown."""
    present = (_cpu_property("flags") or _cpu_property("Features") or "").split()
    return [flag for flag in SPEED_FLAGS if flag in present]


def int8_sums_saturate() -> bool:
    """Say whether this CPU is known to add products of 8 bits in 16: x86 without VNNI."""
    flags = (_cpu_property("flags") or "").split()  # ARM's, which has no such trouble: Features
    return bool(flags) and not {"avx512_vnni", "avx_vnni", "amx_int8"} & set(flags)


def _cpu_model() -> str:
    return _cpu_property("model name") or platform.processor() or "unknown"


def _cpu_property(name: str) -> str | None:
    """Return what Linux says of the first core, or None."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):  # not on every system
        return None
