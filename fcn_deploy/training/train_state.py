"""The resumable training state: all that training changes, saved and loaded without a loss.

TrainState   network, optimizer, schedule, loss scale, moving average
Sums         what the epoch has counted so far
ResumeState  both with the place where the run stands ──save_state──▶ RUN/state.pt
                                                      ◀──load_state──
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import atomic_path
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.training import Epoch
from fcn_deploy.training.recipes import Recipe

STATE_SCHEMA = 2
_POLY_POWER = 0.9
#: Among the arguments of a state file, the options as words of a command line.
_OPTIONS = "words"
_REPAIR = "train anew with --overwrite"


class TrainState:
    """A network and what trains it.

    Args:
        network: on its device.
        recipe: optimizer, schedule, average.
        steps: of the whole run.
        scaled: scale the loss up, so that gradients of half floats do not vanish.

    Attributes:
        network: the weights that are trained.
        optimizer: of the recipe.
        schedule: of its learning rate, a step per batch.
        scaler: of the loss; does nothing unless ``scaled``.
        average: the moving average of the network, or None.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, steps: int, *, scaled: bool = False
    ) -> None:
        self.network = network
        self.optimizer = _optimizer(recipe, network)
        self.schedule = _schedule(recipe, self.optimizer, steps)
        self.scaler = torch.amp.GradScaler(next(network.parameters()).device.type, enabled=scaled)
        self.average = (
            None
            if recipe.ema is None
            else AveragedModel(network, multi_avg_fn=_decayed(recipe.ema), use_buffers=True)
        )
        self._clip_norm = recipe.clip_norm

    @property
    def result(self) -> nn.Module:
        """The network to validate and to keep: the average if there is one."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> Tensor:
        """Take the gradient of a scalar loss; return its norm, a scalar."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(gradients)

    @property
    def skips_overflows(self) -> bool:
        """Whether a gradient that is not finite is left out, and the loss scaled down."""
        return bool(self.scaler.is_enabled())

    def first_non_finite_gradient(self) -> str:
        """Say whose gradient is the first that is not finite."""
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return f"that of {name} is not finite"
        return "its norm is beyond float32"

    def step(self, norm: Tensor) -> None:
        """Learn from the gradient that was taken, whose norm is given."""
        if self._clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self._clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def state(self) -> dict[str, Any]:
        """Return all of it as tensors and plain values."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state` gave.

        Raises:
            KeyError, ValueError, RuntimeError: it is of another network or recipe.
        """
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {
            "network": self.network,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return parts if self.average is None else parts | {"average": self.average}


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    parameters = list(network.parameters())  # those frozen for now have no gradient, and stay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    # Fused: on a CPU its step takes a fifth of the time, which tells at half size.
    return torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=True)


def _schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    if recipe.schedule == "one-cycle":
        # Left to itself it would give SGD, which is asked for without, a momentum of up to 0.95.
        cycled = recipe.optimizer == "adamw"
        return OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps, cycle_momentum=cycled)
    if recipe.schedule == "poly":
        return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / steps) ** _POLY_POWER)
    return LambdaLR(optimizer, lambda _: 1.0)


def _decayed(decay: float) -> Callable[..., None]:
    """Return the moving average's rule; its first steps look back less far than ``decay`` does."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        keep = min(decay, (1 + seen) / (10 + seen))
        get_ema_multi_avg_fn(keep)(averaged, current, count)  # type: ignore[no-untyped-call]

    return update


@dataclass
class Sums:
    """What an epoch counts, over all ranks once it is whole.

    Attributes:
        confusion: int64 [C, C], of the training crops, on the network's device.
        loss: sum over the batches, per example.
        batches: done.
        examples: seen.
        data_seconds: spent waiting for examples.
        compute_seconds: spent learning from them.
        lr: learning rate of the last batch.
    """

    confusion: Tensor
    loss: float = 0.0
    lr: float = 0.0
    batches: int = 0
    examples: int = 0
    data_seconds: float = 0.0
    compute_seconds: float = 0.0

    @classmethod
    def empty(cls, num_classes: int, device: torch.device) -> Sums:
        """Return sums of nothing."""
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device))


@dataclass(frozen=True)
class ResumeState:
    """Where a run stands.

    Attributes:
        arguments: option → value of the command that began the run, as JSON values; a resumed run
            must have the same.
        options: the same as words of a command line.
        setting: where and on what it runs, as JSON values; a resumed run must be the same.
        epoch: the epoch that is being learned, from 1.
        sums: of it so far; ``sums.batches`` are done.
        epochs: figures of the finished ones.
        learner: of :meth:`TrainState.state`.
    """

    arguments: Mapping[str, Any]
    options: tuple[str, ...]
    setting: Mapping[str, Any]
    epoch: int
    sums: Sums
    epochs: tuple[Epoch, ...]
    learner: Mapping[str, Any]


def save_state(path: Path, state: ResumeState) -> None:
    """Write where a run stands, whole or not at all.

    Raises:
        ArtifactError: the place cannot be written.
    """
    content = {
        "schema": STATE_SCHEMA,
        "arguments": {**state.arguments, _OPTIONS: list(state.options)},
        "setting": dict(state.setting),
        "epoch": state.epoch,
        "sums": dict(vars(state.sums)),
        "epochs": [epoch.to_json() for epoch in state.epochs],
        "learner": dict(state.learner),
    }
    with atomic_path(path, flags="--out") as temporary:
        torch.save(content, temporary)


def load_state(path: Path) -> ResumeState:
    """Read what :func:`save_state` wrote.

    Raises:
        MissingStageError: there is none.
        ArtifactError: it is damaged, or of another version.
    """
    if not path.is_file():
        raise MissingStageError(f"no {path}: there is nothing to resume", "drop --resume")
    try:
        # weights_only: tensors and containers, nothing that runs code.
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["schema"] != STATE_SCHEMA:
            raise ArtifactError(
                f"{path} has schema {content['schema']}, this version reads {STATE_SCHEMA}",
                "resume with the fcn-deploy that wrote it, or " + _REPAIR,
            )
        arguments = dict(content["arguments"])
        return ResumeState(
            options=tuple(arguments.pop(_OPTIONS, ())),
            arguments=arguments,
            setting=content["setting"],
            epoch=int(content["epoch"]),
            sums=Sums(**content["sums"]),
            epochs=tuple(
                Epoch.from_fields(Fields(values, path, _REPAIR)) for values in content["epochs"]
            ),
            learner=content["learner"],
        )
    except ArtifactError:
        raise
    except Exception as error:  # on foreign bytes torch's unpickler stumbles in any way
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} is damaged ({words})", _REPAIR) from error
