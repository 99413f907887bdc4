"""What the TensorRT tests share: a machine with a fake GPU and a fake release, ONNX files by hand.

Known to no torch: these tests run on Python 3.10 with nothing but the target device's packages.
They run there with ``--noconftest``, so the fixtures lie here, and a test file takes them by name.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.spec import SPEC_KEY, ModelSpec, Precision, Product, SizeRange, Tail
from fcn_deploy.graph.onnx_file import CHECKPOINT_DIGEST_KEY, PRECISION_KEY, TAIL_KEY, OnnxFile
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import Engine, engine_from_onnx
from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt import NUM_CLASSES, RELEASES, FakeTensorRt

MODEL, ENGINES = Path("model.onnx"), Path("engines")
SPEC = ModelSpec(
    architecture="fcn32s-resnet18",
    class_names=tuple("abcde"),
    palette=tuple((level, 0, 0) for level in range(NUM_CLASSES)),
    image_sizes=SizeRange(smallest=(32, 32), typical=(48, 64), largest=(96, 128)),
)


@dataclass(frozen=True)
class FakeMachine:
    """A machine with a GPU and one release of TensorRT, both fake."""

    cuda: FakeCuda
    trt: FakeTensorRt
    product: Product
    release: str

    def build(self, path: Path = MODEL, **how: Any) -> Engine:
        """Build the engine of a file in ``ENGINES``, called ``fcn`` unless ``how`` has a name."""
        return engine_from_onnx(OnnxFile(path), **{"name": "fcn", "product": self.product, **how})


def install(
    monkeypatch: pytest.MonkeyPatch, release: str, cuda: FakeCuda | None = None
) -> FakeMachine:
    """Put a fake release and a fake CUDA runtime where the package looks for them."""
    cuda = cuda or FakeCuda()
    product = Product.RTX if release.startswith("rtx") else Product.TRT
    trt = FakeTensorRt(release, cuda)
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    for name in ("tensorrt", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, trt.__name__, trt)
    monkeypatch.setattr(api, "_loaded", {})
    monkeypatch.setattr(api, "_load_rtx_libraries", lambda: None)
    monkeypatch.setattr(api, "is_installed", lambda asked: asked is product)
    monkeypatch.setattr(api, "_DISTRIBUTIONS", dict.fromkeys(Product, "no-such-package"))
    return FakeMachine(cuda, trt, product, release)


needs_rtx = pytest.mark.skipif(
    api.unavailable_reason(Product.RTX) is not None,
    reason=f"TensorRT for RTX: {api.unavailable_reason(Product.RTX)}",
)
Install = Callable[..., FakeMachine]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """``install`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return partial(install, monkeypatch)


@pytest.fixture(params=RELEASES)
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> FakeMachine:
    """A fake machine for each release, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, request.param)


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMachine:
    """A machine with one release, for what does not differ between them."""
    monkeypatch.chdir(tmp_path)
    return install(monkeypatch, "11.4.0")


def write_onnx(
    path: Path = MODEL,
    precision: Precision = Precision.FP32,
    outputs: tuple[str, ...] = ("mask",),
    *,
    opset: int = 17,
    node: str = "Identity",
    checkpoint: str = "sha256:checkpoint",
) -> Path:
    """Write a file with our metadata; its graph says no more than the fake parser reads."""
    kind = np.float16 if precision is Precision.FP16 else np.float32
    graph = helper.make_graph(
        [
            helper.make_node(node, ["image"], ["scores"], name="the_node"),
            helper.make_node("ArgMax", ["scores"], ["index"]),
            helper.make_node("Identity", ["index"], ["mask"]),
        ],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in outputs],
        [numpy_helper.from_array(np.zeros(1, kind), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    entries = {
        SPEC_KEY: SPEC.to_json(),
        PRECISION_KEY: precision.value,
        CHECKPOINT_DIGEST_KEY: checkpoint,
        TAIL_KEY: Tail.EARLY_ARGMAX.value,
    }
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path
