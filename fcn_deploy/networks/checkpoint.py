"""Checkpoints: weights as safetensors, the spec in the header.  No pickle, so nothing executes."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fcn_deploy.core.errors import ArchitectureError, ArtifactError, CheckpointError, WriteError
from fcn_deploy.core.files import atomic_path
from fcn_deploy.core.spec import SPEC_KEY, ModelSpec
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.fcn import SegmentationNetwork

_REPAIR = "give a model.safetensors that `fcn-deploy train` wrote"
# A header beyond this is not one of ours: the length field of a foreign file reads as garbage.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it was trained for.

    Attributes:
        model: float [N, 3, H, W] → logits [N, C, H, W], in evaluation mode, on the CPU.
        spec: classes, colours, normalisation, architecture.
    """

    model: SegmentationNetwork
    spec: ModelSpec


def save_checkpoint(path: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write weights and spec, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written.
    """
    tensors: dict[str, torch.Tensor] = {}
    written: set[int] = set()
    for name, tensor in model.state_dict().items():
        # Tied weights are one tensor under two names, which the format does not have.
        shared = tensor.untyped_storage().data_ptr() in written
        written.add(tensor.untyped_storage().data_ptr())
        here = tensor.detach().to("cpu").contiguous()
        tensors[name] = here.clone() if shared else here
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={SPEC_KEY: spec.to_json()})
        except safetensors.SafetensorError as error:
            # The library reports a full disk as its own error: hand the reason on.
            raise WriteError(
                f"cannot write {path}: {error}", "free some space, or write elsewhere"
            ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and build its network.

    Raises:
        CheckpointError: missing, truncated, a pickle, foreign, or its weights do not fit the
            architecture and classes that its header names.
    """
    spec = read_spec(path)
    try:
        model = build_model(spec.architecture, spec.num_classes)
    except ArchitectureError as error:
        raise CheckpointError(f"{path}: {error.message}", error.repair) from error
    load_weights(path, model)
    return Checkpoint(model.eval(), spec)


def read_spec(path: Path) -> ModelSpec:
    """Read the spec from a checkpoint's header alone.

    Raises:
        CheckpointError: missing, truncated, a pickle, or not ours.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
            _refuse_pickle(path, start)
            length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
            rest = stream.read(length - 1) if 0 < length <= _MAX_HEADER_BYTES else b""
        metadata = json.loads(start[8:] + rest).get("__metadata__") or {}
    except FileNotFoundError as error:
        raise CheckpointError(f"no checkpoint {path}", _REPAIR) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", _REPAIR) from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file", _REPAIR) from error
    if not isinstance(metadata, dict) or SPEC_KEY not in metadata:
        raise CheckpointError(f"{path} carries no fcn-deploy spec", _REPAIR)
    try:
        return ModelSpec.from_json(metadata[SPEC_KEY])
    except ArtifactError as error:
        raise CheckpointError(f"{path}: {error.message}", error.repair or _REPAIR) from error


def is_foreign(path: Path) -> bool:
    """Say whether a file is a whole safetensors file, and none of ours."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return SPEC_KEY not in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError):
        return False


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill ``model`` with a safetensors file's weights; all must fit.

    Raises:
        CheckpointError: truncated, or of another architecture or class count.
    """
    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error})", _REPAIR) from error
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    misfits = sorted(
        name for name in shapes.keys() | given.keys() if shapes.get(name) != given.get(name)
    )
    if misfits:
        raise CheckpointError(
            f"the weights of {path} are of another architecture or class count "
            f"(first misfit of {len(misfits)}: {misfits[0]})",
            _REPAIR,
        )
    model.load_state_dict(tensors)


def _refuse_pickle(path: Path, start: bytes) -> None:
    # torch.save writes a zip archive ("PK") or, before 1.6, a bare pickle (0x80).  A safetensors
    # file may start alike, as it starts with a length, but goes on with a JSON object.
    if start[8:9] != b"{" and (start[:2] == b"PK" or start[:1] == b"\x80"):
        raise CheckpointError(
            f"{path} is a pickle (torch.save), which can run code when loaded",
            "give a .safetensors checkpoint; a torchvision body goes to `fcn-deploy train "
            "--weights FILE`",
        )
