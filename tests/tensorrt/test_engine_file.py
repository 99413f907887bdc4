"""Engines as files: the sidecar, the plan's header, and what a harmed one is refused for."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import EngineError, MissingStageError
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt import engine_file
from fcn_deploy.tensorrt.engine_file import (
    read_engine,
    read_plan_header,
    read_sidecar,
    sidecar_path,
)
from tests.tensorrt import engine_files
from tests.tensorrt.engine_files import plan_bytes, sidecar_of, write_sidecar

plan = engine_files.plan


def edit_sidecar(plan: Path, **fields: Any) -> None:
    path = sidecar_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_names_and_round_trip(plan: Path) -> None:
    assert plan.name == "fcn.fp16.trt-10.16.1.11.sm89.plan"
    assert sidecar_path(plan).name == "fcn.fp16.trt-10.16.1.11.sm89.plan.json"
    sidecar = read_engine(plan)
    assert sidecar == sidecar_of(plan)
    assert sidecar.outputs == ("mask",)
    assert plan.read_bytes() == plan_bytes()  # trtexec and Triton load it as it is


def test_the_header_tells_product_and_release(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(plan_bytes(b"vtrt", (1, 7, 1, 116)))
    header = read_plan_header(path)
    assert (header.product, header.version) == (Product.RTX, (1, 7, 1, 116))


def corrupt(plan: Path) -> None:
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def change_sidecar(plan: Path) -> None:
    edit_sidecar(plan, compute_capabilities=["sm90"])


def remove_sidecar(plan: Path) -> None:
    sidecar_path(plan).unlink()


def unseal_sidecar(plan: Path) -> None:
    content = json.loads(sidecar_path(plan).read_text())
    del content["sidecar_digest"]
    sidecar_path(plan).write_text(json.dumps(content))


def break_sidecar(plan: Path) -> None:
    sidecar_path(plan).write_text("{")


def newer_sidecar(plan: Path) -> None:
    edit_sidecar(plan, schema=99)


def swap_plan(plan: Path) -> None:
    plan.write_bytes(plan_bytes(version=(8, 6, 0, 12)))
    write_sidecar(plan, replace(sidecar_of(plan), version="10.16.1.11"))


REFUSALS: list[tuple[Callable[[Path], None], str, str]] = [
    (corrupt, "is not the plan that was built: expected sha256:", "fcn-deploy build --fp16"),
    (truncate, "is truncated: expected 128 bytes, found 127", "fcn-deploy build --fp16"),
    (change_sidecar, "was changed after the build: expected sha256:", "fcn-deploy build"),
    (unseal_sidecar, "was changed after the build: expected none, found sha256:",
     "fcn-deploy build"),
    (remove_sidecar, "has no sidecar: expected fcn.fp16", "--trust"),
    (break_sidecar, "is not JSON", "fcn-deploy build"),
    (newer_sidecar, "has schema 99, this version reads 1", "fcn-deploy build"),
    (swap_plan, "expected a plan of trt-10.16.1.11, found one of trt-8.6.0.12", "fcn-deploy build"),
    (Path.unlink, "no engine ", "fcn-deploy build"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "sentence", "repair"), REFUSALS)
def test_each_harm_has_its_own_sentence(
    plan: Path, harm: Callable[[Path], None], sentence: str, repair: str
) -> None:
    harm(plan)
    with pytest.raises((EngineError, MissingStageError)) as refused:
        read_engine(plan)
    assert sentence in str(refused.value)
    assert repair in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK\x03\x04" + bytes(100), "is no TensorRT plan: expected it to start with b'ftrt'"),
        (b"ftrt\x01" + plan_bytes()[5:], "is a plan of another layout: .* version 0, found 1"),
        (plan_bytes()[:20], "is truncated: expected a header of 28 bytes, found 20"),
    ],
    ids=["tag", "layout", "length"],
)
def test_a_header_that_says_nothing_is_a_warning_where_the_digest_fits(
    plan: Path, content: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan.write_bytes(content)
    write_sidecar(plan, sidecar_of(plan))
    with caplog.at_level("WARNING", "fcn_deploy.tensorrt"):
        assert read_engine(plan) == sidecar_of(plan)
    (warning,) = caplog.messages
    assert re.search(problem, warning)
    assert "so it is taken" in warning
    with pytest.raises(EngineError, match=problem):  # nobody vouches for it without a sidecar
        read_plan_header(plan)
    corrupt(plan)
    with pytest.raises(EngineError, match="is not the plan that was built"):
        read_engine(plan)


def test_a_plan_that_ends_in_its_header_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(plan_bytes()[:27])
    with pytest.raises(EngineError, match="expected a header of 28 bytes, found 27"):
        read_plan_header(path)


def test_refusals_need_neither_tensorrt_nor_torch(plan: Path) -> None:
    corrupt(plan)
    script = (
        "import sys\n"
        "for name in ('torch', 'tensorrt', 'tensorrt_rtx_bindings', 'cuda', 'onnx', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from fcn_deploy.tensorrt.engine_file import read_engine\n"
        f"read_engine(Path({str(plan)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "EngineError" in done.stderr
    assert "is not the plan that was built" in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flags", None),
        ("flags", []),
        ("plan_bytes", "a"),
        ("compute_capabilities", [89]),
        ("compute_capabilities", None),
        ("version", 10),
        ("layers", "none"),
        ("spec", []),
        ("profiles", {"a": 1}),
    ],
)
def test_a_field_of_another_kind_is_refused(plan: Path, field: str, value: object) -> None:
    content = {**sidecar_of(plan).to_json(), field: value}
    del content["sidecar_digest"]
    content["sidecar_digest"] = engine_file._seal({**content})
    sidecar_path(plan).write_text(json.dumps(content))
    with pytest.raises(EngineError, match="is unreadable"):
        read_sidecar(plan)


def test_sidecars_are_read_alone(plan: Path) -> None:
    corrupt(plan)
    assert read_sidecar(plan).precision is Precision.FP16  # cheap: the plan is not hashed
