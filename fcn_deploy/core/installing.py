"""How an extra of this package is installed beside the ONNX Runtime that is there."""

import platform
import re
import sys

#: Where the base installation asks for ``onnxruntime-gpu``.
_GPU_SYSTEMS, _GPU_MACHINES = ("linux", "win32"), ("x86_64", "AMD64")


def install_command(extra: str) -> str:
    """Return the command that installs an extra.

    Beside ``onnxruntime`` in the place of ``onnxruntime-gpu`` it names the extra's packages, since
    pip would install the other for our own name, into the same folder.
    """
    named = _packages(extra) if _is_for_cpu() else []
    return " ".join(["pip install", *(named or [f"'fcn-deploy[{extra}]'"])])


def _is_for_cpu() -> bool:
    if sys.platform not in _GPU_SYSTEMS or platform.machine() not in _GPU_MACHINES:
        return False
    return _is_installed("onnxruntime") and not _is_installed("onnxruntime-gpu")


def _is_installed(name: str) -> bool:
    from importlib import metadata

    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _packages(extra: str) -> list[str]:
    """Return an extra's requirements for a shell, or nothing where they are not known."""
    from importlib import metadata

    try:
        lines = metadata.requires("fcn-deploy") or []
    except metadata.PackageNotFoundError:  # run from a folder that was copied
        return []
    asked = re.compile(rf"""\s*(\band )?\bextra == ["']{re.escape(extra)}["']""")
    found = (asked.sub("", line).strip(" ;") for line in lines if asked.search(line))
    return [f'"{one}"' if "'" in one else f"'{one}'" for one in found]
