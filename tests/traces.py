"""What ``torch.onnx`` gave for a network, kept for the next test that exports the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from fcn_deploy.core.files import write_bytes

if TYPE_CHECKING:
    from torch import nn

Trace = Callable[..., onnx.ModelProto]


def kept(trace: Trace, folder: Path) -> Trace:
    """Return ``trace`` with a memory: tracing takes five seconds, most of an export.

    Two networks are the same if the classes, plain attributes and weights of all their modules
    are; hooks and patched methods are not seen.

    Args:
        trace: ``fcn_deploy.export._traced``.
        folder: may be shared by the workers of a session.
    """

    def traced(model: nn.Module, *how: Any) -> onnx.ModelProto:
        file = folder / f"{_digest(model, how)}.onnx"
        if not file.exists():
            write_bytes(file, trace(model, *how).SerializeToString())
        return onnx.ModelProto.FromString(file.read_bytes())

    return traced


def _digest(model: nn.Module, how: tuple[Any, ...]) -> str:
    import torch

    example, *rest = how
    modules = [
        (
            name,
            f"{type(module).__module__}.{type(module).__qualname__}",
            sorted((k, repr(v)) for k, v in vars(module).items() if not k.startswith("_")),
        )
        for name, module in model.named_modules()
    ]
    form = (modules, example.shape, example.dtype, rest)
    digest = hashlib.sha256(repr(form).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
