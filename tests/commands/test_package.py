"""``package triton`` as it is typed: which file is taken, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt.engine_file import engine_path
from tests.command_line import FcnDeploy, Finished, refused
from tests.tensorrt.engine_files import plan_bytes, sidecar_of, write_sidecar
from tests.tensorrt_fixtures import write_onnx


def write_engine(onnx: Path, capability: str = "sm89") -> Path:
    """Write an engine of an ONNX file into engines/, where commands look for it."""
    folder = Path("engines")
    folder.mkdir(exist_ok=True)
    plan = engine_path(folder, "road", Precision.FP16, Product.TRT, "10.16.1.11", (capability,))
    plan.write_bytes(plan_bytes())
    write_sidecar(plan, replace(sidecar_of(plan), onnx_digest=file_digest(onnx)))
    return plan


Package = Callable[..., Finished]


@pytest.fixture
def package(fcn_deploy: FcnDeploy) -> Package:
    return lambda *words: fcn_deploy("package", "triton", *words)


def test_the_file_of_the_run_under_its_name(package: Package, tmp_path: Path) -> None:
    write_onnx(tmp_path / "road" / "model.onnx")
    half = write_onnx(tmp_path / "road" / "model.fp16.onnx", Precision.FP16)
    done = package("road", "--out", "served", "--fp16", "--max-batch", "2").succeeded()
    assert file_digest(tmp_path / "served/road/1/model.onnx") == file_digest(half)
    assert "model road (onnxruntime_onnx, fp16), batches of up to 2" in done.out
    assert "warm-up at 1×32×32, 1×48×64, 1×96×128, 2×48×64" in done.out
    again = package("road", "--out", "served")
    refused(again, "holds a repository already", "--overwrite")
    package("road", "--out", "served", "--overwrite").succeeded()


def test_the_engine_of_the_run_or_one_that_is_named(package: Package, tmp_path: Path) -> None:
    onnx = write_onnx(tmp_path / "road" / "model.fp16.onnx", Precision.FP16)
    words = ("road", "--backend", "trt", "--fp16", "--out")
    refused(package(*words, "a"), "no engine in engines/", "fcn-deploy build road --fp16")
    plan = write_engine(onnx)
    done = package(*words, "a").succeeded()
    assert file_digest(tmp_path / "a/road/1/model.plan") == file_digest(plan)
    assert "TensorRT 10.16.1.11 on sm89 (built on NVIDIA L4)" in done.out
    assert "warning: no container is known" in done.out
    other = write_engine(onnx, "sm120")
    refused(package(*words, "b"), str(plan), str(other), "name the one")
    package(other, "--out", "b", "--name", "road").succeeded()
    assert (tmp_path / "b/road/1/model.plan.json").is_file()
    named = (other, "--out", "c", "--name", "road")
    refused(package(*named, "--backend", "ort"), "is an engine")
    refused(package(*named, "--int8"), "holds a fp16 network, not int8")
    refused(package(*named, "--max-batch", "9"), "takes batches of 1 to 8")
    assert not (tmp_path / "c").exists()


def test_what_is_missing_or_of_no_use_is_refused(package: Package, tmp_path: Path) -> None:
    (tmp_path / "road").mkdir()
    refused(
        package("road", "--out", "out"),
        "model.onnx", "run `fcn-deploy export road` first",
    )  # fmt: skip
    refused(package("road"), "--out")
    write_onnx(tmp_path / "road" / "model.onnx")
    shutil.copytree("road", "my road")
    refused(package("my road", "--out", "out"), "'my road'", "--name")
    refused(package("road", "--out", "road"), "holds something else")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my road", "road"]
    assert sorted(path.name for path in (tmp_path / "road").iterdir()) == ["model.onnx"]
