"""Repositories written in tests, and their configuration as Triton's client reads it."""

from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.triton.model import ServedModel, engine_model, onnx_model
from tests.tensorrt_fixtures import write_onnx


def parsed(config: Path) -> Any:
    """Return config.pbtxt as a message of Triton's own schema, which names a misspelt field."""
    schema = pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]"
    )
    from google.protobuf import text_format

    return text_format.Parse(config.read_text(encoding="utf-8"), schema.ModelConfig())


def exported(
    folder: Path, outputs: tuple[str, ...] = ("mask",), precision: Precision = Precision.FP32
) -> ServedModel:
    """Return an exported file, with a graph that nobody runs."""
    run = Run(folder)
    write_onnx(run.onnx(precision), precision, outputs)
    return onnx_model(run, precision)


def built(plan: Path) -> ServedModel:
    """Return an engine that was named."""
    return engine_model(Run(plan.parent, plan), Precision.FP32)
