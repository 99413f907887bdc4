"""What can be typed after `train`, as one value."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import TextType
from fcn_deploy.core.code_trust import trusting_code
from fcn_deploy.core.errors import InputError
from fcn_deploy.training.recipes import RECIPES

if TYPE_CHECKING:
    import torch

    from fcn_deploy.networks.backbones import Weights
    from fcn_deploy.training.plan import Amp, TrainPlan
    from fcn_deploy.training.recipes import Recipe


#: Options that may differ when a run is resumed: they change no figure but the seconds.
_FREE = {"out", "resume", "overwrite", "download", "workers", "tensorboard"}


class Epochs(TextType):
    """``all``, or a number of epochs from 1."""

    name = "all|EPOCHS"

    def read(self, word: str) -> int | str:
        """Return the word ``all`` or the number."""
        if word == "all":
            return word
        if not (word.isdecimal() and int(word) >= 1):
            self.fail(f"{word!r} is neither `all` nor a number of epochs")
        return int(word)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """What was typed; the fields are the options of :func:`train`."""

    data: str | None
    held_out: float | None
    download: bool
    out: str
    arch: str | None
    output_stride: int | None
    weights: str
    recipe: str | None
    epochs: int | None
    batch_size: int | None
    crop_size: tuple[int, int] | None
    half_size: float | None
    lr: float | None
    loss: str | None
    schedule: str | None
    class_weights: str | None
    ema: float | None
    clip_norm: float | None
    freeze_backbone: int | Literal["all"] | None
    patience: int | None
    validate_every: int | None
    seed: int
    device: str
    amp: str
    compiled: bool
    sync_batch_norm: bool
    deterministic: bool
    workers: int | None
    tensorboard: bool
    resume: bool
    overwrite: bool

    def to_json(self) -> dict[str, Any]:
        """Return those that a resumed run must share, as JSON values."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in _FREE}
        return dict(json.loads(json.dumps(values)))

    def taken_from(self, saved: Mapping[str, Any]) -> TrainOptions:
        """Return the options with saved ones in their place."""
        known = {name: saved[name] for name in self.to_json() if name in saved}
        if (size := known.get("crop_size")) is not None:
            known["crop_size"] = tuple(size)
        return dataclasses.replace(self, **known)


def options_given(context: click.Context, options: TrainOptions, data: str) -> list[str]:
    """Return the options that differ from their defaults, as words of a command line.

    The data's folder is resolved, so that later commands find it from anywhere.
    """
    words: list[str] = []
    for param in context.command.params:
        value = getattr(options, str(param.name), None)
        if param.name in _FREE or value is None or value is False:
            continue
        if value == param.get_default(context):
            continue
        if param.name == "data":
            value = data
        if isinstance(value, tuple):
            value = "x".join(map(str, value))
        words += [param.opts[0]] if value is True else [param.opts[0], str(value)]
    return words


def train_plan(options: TrainOptions, device: torch.device) -> TrainPlan:
    """Return the plan of a training, with all that was left open settled."""
    from fcn_deploy.machine.description import usable_cores
    from fcn_deploy.networks.architectures import (
        DEFAULT_ARCHITECTURE,
        build_model,
        find_architecture,
        with_output_stride,
    )
    from fcn_deploy.networks.python_networks import try_python_network
    from fcn_deploy.networks.python_recipe import PythonRecipe, is_python
    from fcn_deploy.networks.starting_weights import is_checkpoint
    from fcn_deploy.networks.timm_bodies import is_timm
    from fcn_deploy.training.plan import TrainPlan

    start = starting_weights(options.weights)
    recipe = recipe_of(options, pretrained=start is not None)
    architecture = options.arch or recipe.architecture or DEFAULT_ARCHITECTURE
    if options.output_stride is not None:
        architecture = with_output_stride(architecture, options.output_stride)
    if is_python(architecture):
        _require_fit_for_python(options, PythonRecipe.from_name(architecture).callee)
        try_python_network(architecture)  # refused now, not after the data was read
    else:
        row = find_architecture(architecture)
        foreign = start is not None and not is_checkpoint(start)
        if foreign or is_timm(row.backbone):
            # Fetched or refused now, not after the data was read.
            build_model(architecture, 2, weights=start if foreign else None)
    freeze = options.freeze_backbone
    workers = options.workers
    if workers is None:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, on this machine
        free = usable_cores() // beside - 1
        workers = max(0, min(16, free)) if device.type == "cuda" else 0
    return TrainPlan(
        recipe,
        device,
        architecture,
        start,
        freeze_epochs=recipe.epochs if freeze == "all" else freeze,
        seed=options.seed,
        workers=workers,
        amp=amp(options.amp, device),
        compiled=options.compiled,
        sync_batch_norm=options.sync_batch_norm,
        deterministic=options.deterministic,
        patience=options.patience,
    )


def _require_fit_for_python(options: TrainOptions, callee: str) -> None:
    """Refuse what concerns the bodies of our own networks.

    Raises:
        InputError: naming the option to drop.
    """
    if options.freeze_backbone is not None:
        raise InputError(
            f"--freeze-backbone knows the bodies of our own networks, not {callee}", "drop it"
        )
    if options.weights == "imagenet" or options.weights.startswith("timm:"):
        raise InputError(
            f"--weights {options.weights} is for the bodies of our own networks, not {callee}",
            "its library may have weights of its own: see --arg, e.g. encoder_weights=imagenet",
        )


@contextmanager
def settled(typed: dict[str, Any]) -> Iterator[TrainOptions]:
    """Yield what was typed as one value: of a network from Python all stands in its name.

    Its code may be imported meanwhile where the name itself was typed.

    Raises:
        InputError: an option for such a network was typed for another.
    """
    from fcn_deploy.networks.python_recipe import PREFIX, PythonRecipe

    arguments, multiple_of = typed.pop("arguments"), typed.pop("multiple_of")
    options = TrainOptions(**typed)
    if options.arch is not None and options.arch.startswith(PREFIX):
        recipe = PythonRecipe.from_name(options.arch).with_options(arguments, multiple_of)
        with trusting_code():
            yield dataclasses.replace(options, arch=recipe.name)
        return
    for option, value in (("--arg", arguments), ("--multiple-of", multiple_of)):
        if value:
            raise InputError(f"{option} is of use with --arch python:... only", "drop it")
    yield options


def recipe_of(options: TrainOptions, *, pretrained: bool) -> Recipe:
    """Return the recipe that was asked for, with single values overridden."""
    preset = RECIPES[options.recipe or ("tutorial" if pretrained else "scratch")]
    names = (
        "epochs", "batch_size", "crop_size", "half_size", "lr", "loss", "schedule",
        "class_weights", "validate_every",
    )  # fmt: skip
    typed = {name: getattr(options, name) for name in names}
    changed = {name: value for name, value in typed.items() if value is not None}
    if options.ema is not None:
        changed["ema"] = options.ema or None
    if options.clip_norm is not None:
        changed["clip_norm"] = options.clip_norm or None
    return dataclasses.replace(preset, **changed)


def amp(word: str, device: torch.device) -> Amp:
    """Return the type of mixed precision asked for."""
    import torch

    if word == "fp16" and device.type == "cpu":
        raise InputError("--amp fp16 is for GPUs", "use --amp bf16, or --amp off")
    if word != "auto":
        return word  # type: ignore[return-value]
    if device.type == "cpu":
        return "off"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def starting_weights(word: str) -> Weights:
    """Return the weights to start from: torchvision's, timm's, those of a file, or none."""
    from fcn_deploy.networks.timm_bodies import PREFIX, TimmWeights

    if word == "none":
        return None
    if word == "imagenet":
        return "imagenet"
    if word.startswith(PREFIX):
        return TimmWeights(word.removeprefix(PREFIX))
    path = Path(word)
    if not path.is_file():
        raise InputError(
            f"no weights file {word}", "give imagenet, timm:NAME, none, or an existing file"
        )
    return path


def data_source(options: TrainOptions) -> str:
    """Return a folder, from the root, or ``synthetic``."""
    if options.data == "voc2012":
        from fcn_deploy.data.voc2012 import find_voc2012

        return str(find_voc2012(download=options.download).resolve())
    if options.data is None:
        console.print("no --data given: training on the built-in synthetic scenes")
    if options.data in (None, "synthetic"):
        return "synthetic"
    return str(Path(options.data).resolve())
