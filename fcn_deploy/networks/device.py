"""Whether PyTorch is installed, and the device and kernels that it uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fcn_deploy.core.errors import BackendError, MissingExtraError

try:
    # First, so that where all are missing it is torch that is named.
    import torch  # noqa: I001
    import safetensors  # noqa: F401
    import torchvision  # noqa: F401
except ImportError as error:
    # On a target device torch is absent by design; say so when somebody asks for it.  Kept: PyTorch
    # cannot be tried twice in a process.
    _import_error: ImportError | None = error
else:
    _import_error = None


def missing_torch(what: str, otherwise: str | None = None) -> MissingExtraError | None:
    """Return the error of a machine without PyTorch, or None where it is there.

    Args:
        what: cannot be done without it; see :class:`MissingExtraError`, like what follows.
        otherwise: what is possible without it.
    """
    if _import_error is None:
        return None
    return MissingExtraError(what, "train", _import_error, otherwise)


def require_torch(what: str, otherwise: str | None = None) -> None:
    """Refuse what cannot be done without PyTorch where it is not installed.

    Raises:
        MissingExtraError: it is not; the arguments are those of :func:`missing_torch`.
    """
    if (error := missing_torch(what, otherwise)) is not None:
        raise error


def device_name(device: torch.device) -> str:
    """Return a device's name for results, with the GPU's own."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Let cuDNN try its kernels for a shape that will come again and again."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def choose_device(device: str) -> torch.device:
    """Return the device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BackendError: ``cuda`` was asked for and PyTorch sees no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"PyTorch {torch.__version__} sees no CUDA device",
            "check `nvidia-smi` and that this PyTorch build has CUDA, or use --device cpu",
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
