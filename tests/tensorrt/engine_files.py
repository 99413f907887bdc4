"""A plan with its sidecar, made by hand, for the tests of engines as files."""

import json
import struct
from pathlib import Path

import pytest

from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import Precision, Product, ShapeProfile
from fcn_deploy.tensorrt.engine_file import (
    EngineSidecar,
    EngineTensor,
    engine_path,
    sidecar_path,
    this_system,
)
from tests.tensorrt_fixtures import SPEC

PROFILE = ShapeProfile((1, 32, 32), (1, 48, 64), (8, 96, 128))


def plan_bytes(tag: bytes = b"ftrt", version: tuple[int, ...] = (10, 16, 1, 11)) -> bytes:
    return tag + bytes(20) + struct.pack("4B", *version) + b"the engine" * 10


def sidecar_of(plan: Path) -> EngineSidecar:
    return EngineSidecar(
        product=Product.TRT,
        version="10.16.1.11",
        plan_digest=file_digest(plan),
        plan_bytes=plan.stat().st_size,
        onnx_digest="sha256:onnx",
        checkpoint_digest="sha256:checkpoint",
        precision=Precision.FP16,
        layers={"fp16": 20, "fp32": 1},
        layers_from="engine inspector",
        compute_capabilities=("sm89",),
        gpu_name="NVIDIA L4",
        driver="13.0",
        system=this_system(),
        profiles=(PROFILE,),
        tensors=(
            EngineTensor("image", "input", "uint8", (-1, -1, -1, 3)),
            EngineTensor("mask", "output", "uint8", (-1, -1, -1)),
        ),
        flags={"workspace_mib": None, "builder": ["no CUDNN"]},
        spec=SPEC,
        command="fcn-deploy build --fp16 --product trt",
        built_at="2026-01-02T03:04:05+00:00",
        build_seconds=12.5,
    )


def write_sidecar(plan: Path, sidecar: EngineSidecar) -> None:
    sidecar_path(plan).write_text(json.dumps(sidecar.to_json()))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = engine_path(tmp_path, "fcn", Precision.FP16, Product.TRT, "10.16.1.11", ("sm89",))
    path.write_bytes(plan_bytes())
    write_sidecar(path, sidecar_of(path))
    return path
