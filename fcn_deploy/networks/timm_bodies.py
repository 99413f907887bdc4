"""Bodies of timm's: any of its networks that has features on grids of 8, 16 and 32 pixels.

A checkpoint names one of the networks that the installed timm has registered, and nothing else:
no module, no file, no address.  So no code is imported that the user has not installed as timm, and
such a checkpoint needs no `--trust-code`.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fcn_deploy.core.errors import ArchitectureError, MissingExtraError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.networks.python_recipe import spoken
from fcn_deploy.networks.upsampling import cropped

PREFIX = "timm:"
#: Pixels of the image per step of the grid that each stage ends with.
_STRIDES = {"layer2": 8, "layer3": 16, "layer4": 32}
_COARSEST = max(_STRIDES.values())
#: (height, width) of the images that a body is tried on: even, odd, flat, one pixel.
_TRIED = ((64, 96), (97, 131), (33, 160), (1, 1))
#: What timm puts before the names of a classifier's tensors where it gives features.
_HOLDERS = ("", "model.", "body.", "graph_module.")
_OTHERS = "take another of timm's networks, e.g. timm:resnet10t or timm:mobilenetv3_small_050"


@dataclass(frozen=True)
class TimmWeights:
    """Weights that timm has published.

    Attributes:
        name: of the network, and after a dot of its weights where there are several, as timm has
            it: ``resnet10t.c3_in1k``.
    """

    name: str

    @property
    def network(self) -> str:
        """The network that they are for."""
        return self.name.partition(".")[0]

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}"


@dataclass(frozen=True)
class TimmPlan:
    """How one of timm's networks serves as a body.

    Attributes:
        name: timm's.
        places: stage → its place among all of the network's features.
        channels: stage → channels that it ends with.
        channels_last: its features are [N, h, w, K].
        padded: its grids are not those of an image of any size, so that the image is padded.
    """

    name: str
    places: Mapping[str, int]
    channels: Mapping[str, int]
    channels_last: bool
    padded: bool


class TimmBody(nn.Module):
    """A body of timm's.

    Where its own grids leave out the last pixels of a size that 32 does not divide, zeros are added
    at the right and at the bottom of the normalised image, and the grids are cropped.

    Args:
        features: float [N, 3, H, W] → one tensor per stage of the plan.
        plan: what is known of it.
    """

    def __init__(self, features: nn.Module, plan: TimmPlan) -> None:
        super().__init__()
        self.features = features
        self.plan = plan

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return each stage's features [N, K, ⌈H/s⌉, ⌈W/s⌉] of images [N, 3, H, W]."""
        height, width = images.shape[2], images.shape[3]
        if self.plan.padded:
            images = nn.functional.pad(images, (0, -width % _COARSEST, 0, -height % _COARSEST))
        found: dict[str, Tensor] = {}
        for stage, grid in zip(self.plan.places, self.features(images), strict=True):
            if self.plan.channels_last:
                grid = grid.permute(0, 3, 1, 2)
            if self.plan.padded:
                stride = _STRIDES[stage]
                rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
                grid = cropped(grid, 0, rows, columns)
            found[stage] = grid
        return found


def is_timm(backbone: str) -> bool:
    """Say whether a backbone's name is that of one of timm's networks."""
    return backbone.startswith(PREFIX)


def timm_body(backbone: str, weights: TimmWeights | None = None) -> TimmBody:
    """Return a body of timm's, with random weights or those that timm has published.

    Raises:
        MissingExtraError: timm is not installed.
        ArchitectureError: it has no such network, or one that cannot be a body, or the weights
            cannot be fetched.
    """
    plan = plan_of(backbone)
    places = tuple(plan.places.values())
    device = torch.get_default_device()
    with torch.device("cpu"):  # some compute their widths by tensors, which need values
        if weights is None:
            features = _created(plan.name, out_indices=places)
        else:
            features = _fetched(weights, plan, places)
    return TimmBody(features.to(device), plan)


@cache
def plan_of(backbone: str) -> TimmPlan:
    """Find out how one of timm's networks serves as a body, by running it on small images.

    Raises:
        MissingExtraError: timm is not installed.
        ArchitectureError: it has no such network, or one that cannot be a body.
    """
    name = backbone.removeprefix(PREFIX)
    _require_known(name)
    # What is drawn here for nothing must not change the weights that a seed gives.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        info = _created(name).feature_info
        rows: list[dict[str, Any]] = list(info.info)  # type: ignore[union-attr, arg-type]
        places = {
            stage: max(place for place, row in enumerate(rows) if row["reduction"] == stride)
            for stage, stride in _STRIDES.items()
            if any(row["reduction"] == stride for row in rows)
        }
        if "layer4" not in places:
            grids = sorted({row["reduction"] for row in rows})
            raise ArchitectureError(
                f"timm's {name} has features on grids of {', '.join(map(str, grids))} pixels and "
                f"none of {_COARSEST}, from which an FCN starts",
                _OTHERS,
            )
        features = _created(name, out_indices=tuple(places.values())).eval()
        last = str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC")
        channels = {stage: int(rows[place]["num_chs"]) for stage, place in places.items()}
        plans = [TimmPlan(name, places, channels, last, padded) for padded in (False, True)]
        for plan in plans:
            refusal = _refusal(TimmBody(features, plan))
            if refusal is None:
                return plan
    raise ArchitectureError(f"timm's {name} {refusal}", _OTHERS)


def renamed(tensors: Mapping[str, Any], body: TimmBody) -> dict[str, Any]:
    """Return a classifier's tensors under the names that they have in a body of it.

    Where timm gives features it calls ``stages.0.blocks`` of the classifier ``stages_0.blocks``.
    """
    own = body.features.state_dict()
    found: dict[str, Any] = {}
    for name, tensor in tensors.items():
        ways = [holder + form for holder in _HOLDERS for form in (name, name.replace(".", "_", 1))]
        found[next((way for way in ways if way in own), name)] = tensor
    return found


def _refusal(body: TimmBody) -> str | None:
    """Return what is wrong with a body's features, or None."""
    for height, width in _TRIED:
        try:
            found = body(torch.zeros(1, 3, height, width))
        except Exception as error:  # the network may raise anything
            return f"takes no image of {height}×{width} ({spoken(error)})"
        for stage, grid in found.items():
            stride = _STRIDES[stage]
            size = (math.ceil(height / stride), math.ceil(width / stride))
            if tuple(grid.shape) != (1, body.plan.channels[stage], *size):
                shape = "×".join(map(str, grid.shape))
                return f"gives features of {shape} where {size[0]}×{size[1]} are due"
    return None


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("a body of timm's", "timm", error) from error
    # They warn of the head that is left out, and of every attempt to fetch a file.
    for name in ("timm", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return timm  # type: ignore[no-any-return]


def _require_known(name: str) -> None:
    timm = _timm()
    if timm.is_model(name):
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    raise ArchitectureError(
        f"timm {timm.__version__} has no network {name}",
        f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` names all",
    )


def _created(name: str, **options: Any) -> nn.Module:
    """Return one of timm's networks in the form that gives features."""
    try:
        features: nn.Module = _timm().create_model(name, features_only=True, **options)
    except ArchitectureError:
        raise
    except Exception as error:  # each network refuses in its own way
        raise ArchitectureError(
            f"timm's {name} gives no features ({spoken(error)})", _OTHERS
        ) from error
    return features


def _fetched(weights: TimmWeights, plan: TimmPlan, places: tuple[int, ...]) -> nn.Module:
    if weights.network != plan.name:
        raise ArchitectureError(
            f"{weights} is for timm:{weights.network}, not timm:{plan.name}",
            f"use an --arch on timm:{weights.network}, or --weights timm:{plan.name}",
        )
    timm = _timm()
    known = timm.list_models(f"{plan.name}*", pretrained=True)
    of_it = [name for name in known if name.partition(".")[0] == plan.name]
    if not of_it or ("." in weights.name and weights.name not in of_it):
        raise ArchitectureError(
            f"timm {timm.__version__} has no weights {weights.name}",
            f"choose --weights timm:{' or timm:'.join(of_it)}"
            if of_it
            else "train from scratch with --weights none, or give a file with --weights FILE",
        )
    try:
        features: nn.Module = timm.create_model(
            weights.name, pretrained=True, features_only=True, out_indices=places
        )
    except Exception as error:  # of the network, of the hub's library, of the file
        raise ArchitectureError(
            f"cannot fetch {weights} ({spoken(error)})",
            f"bring {_address(timm, weights.name)} by other means and name it with --weights FILE, "
            "or train from scratch with --weights none",
        ) from error
    return features


def note_of(weights: TimmWeights) -> str:
    """Return what to say of how published weights were learned: nothing where it is as here."""
    published = _timm().get_pretrained_cfg(weights.name)
    here = ModelSpec.mean, ModelSpec.std
    if published is None or (tuple(published.mean), tuple(published.std)) == here:
        return ""
    mean, std = (", ".join(f"{one:g}" for one in row) for row in (published.mean, published.std))
    return (
        f"; it was learned with mean {mean} and deviation {std}, and this training normalises by "
        "ImageNet's"
    )


def _address(timm: ModuleType, name: str) -> str:
    """Return where the file of published weights lies."""
    published = timm.get_pretrained_cfg(name)
    if published.hf_hub_id:
        file = published.hf_hub_filename or "model.safetensors"
        return f"https://huggingface.co/{published.hf_hub_id}/resolve/main/{file}"
    return str(published.url or f"the file of {name}")
