"""Which tensors of a file a network can take, and why it cannot take the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.torch_files import read_tensors

#: What scripts and PyTorch Lightning put before the names of a network that they hold.
_HOLDERS = ("", "network.", "model.", "net.", "module.", "model.network.")
#: How many batches were counted decides nothing in evaluation.
_COUNTS = ".num_batches_tracked"
#: Names that a line lists of each kind.
_LISTED = 3


@dataclass(frozen=True)
class Fit:
    """Which of a file's tensors a network can take.

    Attributes:
        taken: by the network's names.
        missing: names of the network's that the file does not hold.
        reshaped: names that both have, in other shapes, with both.
        spare: names of the file's that the network does not have.
    """

    taken: Mapping[str, Tensor]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]
    spare: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is left over on either side."""
        return not (self.missing or self.reshaped or self.spare)

    @property
    def words(self) -> str:
        """Say how many tensors were taken, and name the first of the others."""
        total = len(self.taken) + len(self.missing) + len(self.reshaped)
        kinds = {
            "not in the file": self.missing,
            "of another shape": self.reshaped,
            "not in the network": self.spare,
        }
        said = [f"{len(names)} {kind} ({few(names)})" for kind, names in kinds.items() if names]
        return ", ".join([f"{len(self.taken)} of its {total} tensors match", *said])


def fit_of(given: Mapping[str, Tensor], network: nn.Module) -> Fit:
    """Match a file's tensors with a network's, whatever the file has put before their names."""
    return max(
        (_fit_behind(holder, given, network) for holder in _HOLDERS),
        key=lambda fit: len(fit.taken),
    )


def _fit_behind(holder: str, given: Mapping[str, Tensor], network: nn.Module) -> Fit:
    own = network.state_dict()
    named = {name.removeprefix(holder): tensor for name, tensor in given.items()}
    both = [name for name in own if name in named]
    fitting = [name for name in both if named[name].shape == own[name].shape]
    return Fit(
        taken={name: named[name] for name in fitting},
        missing=tuple(n for n in own if n not in named and not n.endswith(_COUNTS)),
        reshaped=tuple(
            f"{name} {_shape(named[name])} for {_shape(own[name])}"
            for name in both
            if name not in fitting
        ),
        spare=tuple(name for name in named if name not in own),
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of torch.save or of safetensors; nothing in it is run.

    Raises:
        ArchitectureError: it holds none.
    """
    try:
        found = load_file(path) if path.suffix == ".safetensors" else read_tensors(path)
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        spoken = isinstance(error, (OSError, RuntimeError, safetensors.SafetensorError))
        lines = str(error).splitlines() if spoken else []
        reason = lines[0] if lines else "not tensors saved by torch.save"
        raise ArchitectureError(
            f"cannot read {path} ({reason})", "give a state dict as .pth, .pt or .safetensors"
        ) from error
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ArchitectureError(
            f"{path} holds no tensors by name", "give a state dict as .pth, .pt or .safetensors"
        )
    return tensors


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def few(names: Sequence[str]) -> str:
    """Return the first names of many."""
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
