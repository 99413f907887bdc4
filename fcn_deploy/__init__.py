"""fcn-deploy: labelled images → segmentation network → the same masks on every backend.

The names below are the public Python API.  They load on first use, so that importing the package
costs nothing and the deploy side runs where PyTorch is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fcn_deploy.artifacts import Run as Run
    from fcn_deploy.checkpoint import load_checkpoint as load_checkpoint
    from fcn_deploy.checkpoint import save_checkpoint as save_checkpoint
    from fcn_deploy.dataset import open_dataset as open_dataset
    from fcn_deploy.export import onnx_from_checkpoint as onnx_from_checkpoint
    from fcn_deploy.images import read_image as read_image
    from fcn_deploy.masks import colour_to_mask as colour_to_mask
    from fcn_deploy.masks import grid as grid
    from fcn_deploy.masks import mask_to_colour as mask_to_colour
    from fcn_deploy.masks import prediction_grid as prediction_grid
    from fcn_deploy.masks import voc_palette as voc_palette
    from fcn_deploy.masks import write_mask as write_mask
    from fcn_deploy.masks import write_picture as write_picture
    from fcn_deploy.networks import bilinear_kernel as bilinear_kernel
    from fcn_deploy.networks import build_model as build_model
    from fcn_deploy.runners.base import open_runner as open_runner
    from fcn_deploy.scenes import draw_scene as draw_scene
    from fcn_deploy.spec import ModelSpec as ModelSpec
    from fcn_deploy.spec import Precision as Precision

__version__ = "0.1.0"

_HOMES = {
    "Run": "artifacts",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "open_dataset": "dataset",
    "onnx_from_checkpoint": "export",
    "read_image": "images",
    "colour_to_mask": "masks",
    "grid": "masks",
    "mask_to_colour": "masks",
    "prediction_grid": "masks",
    "voc_palette": "masks",
    "write_mask": "masks",
    "write_picture": "masks",
    "bilinear_kernel": "networks",
    "build_model": "networks",
    "open_runner": "runners.base",
    "draw_scene": "scenes",
    "ModelSpec": "spec",
    "Precision": "spec",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"fcn_deploy.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fcn_deploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
