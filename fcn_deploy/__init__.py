"""fcn-deploy: labelled images → segmentation network → the same masks on every backend.

The names below are the public Python API.  They load on first use, so that importing the package
costs nothing and the deploy side runs where PyTorch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fcn_deploy.core.version import VERSION

if TYPE_CHECKING:
    from fcn_deploy.bundle.cache import open_bundle as open_bundle
    from fcn_deploy.core.run import Run as Run
    from fcn_deploy.core.spec import ModelSpec as ModelSpec
    from fcn_deploy.core.spec import Precision as Precision
    from fcn_deploy.data.images import read_image as read_image
    from fcn_deploy.data.masks import colour_to_mask as colour_to_mask
    from fcn_deploy.data.masks import grid as grid
    from fcn_deploy.data.masks import mask_to_colour as mask_to_colour
    from fcn_deploy.data.masks import prediction_grid as prediction_grid
    from fcn_deploy.data.masks import voc_palette as voc_palette
    from fcn_deploy.data.masks import write_mask as write_mask
    from fcn_deploy.data.masks import write_picture as write_picture
    from fcn_deploy.data.scenes.render import draw_scene as draw_scene
    from fcn_deploy.data.sources import open_dataset as open_dataset
    from fcn_deploy.export.exporter import onnx_from_checkpoint as onnx_from_checkpoint
    from fcn_deploy.networks.architectures import build_model as build_model
    from fcn_deploy.networks.checkpoint import load_checkpoint as load_checkpoint
    from fcn_deploy.networks.checkpoint import save_checkpoint as save_checkpoint
    from fcn_deploy.networks.upsampling import bilinear_kernel as bilinear_kernel
    from fcn_deploy.runners.base import open_runner as open_runner

__version__ = VERSION

_HOMES = {
    "Run": "core.run",
    "load_checkpoint": "networks.checkpoint",
    "save_checkpoint": "networks.checkpoint",
    "open_dataset": "data.sources",
    "onnx_from_checkpoint": "export.exporter",
    "read_image": "data.images",
    "colour_to_mask": "data.masks",
    "grid": "data.masks",
    "mask_to_colour": "data.masks",
    "prediction_grid": "data.masks",
    "voc_palette": "data.masks",
    "write_mask": "data.masks",
    "write_picture": "data.masks",
    "bilinear_kernel": "networks.upsampling",
    "build_model": "networks.architectures",
    "open_runner": "runners.base",
    "open_bundle": "bundle.cache",
    "draw_scene": "data.scenes.render",
    "ModelSpec": "core.spec",
    "Precision": "core.spec",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fcn_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fcn_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
