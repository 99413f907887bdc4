"""Commands where the packages of the extras are missing: each names what to install."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.errors import MissingExtraError
from fcn_deploy.core.extras import missing_extra, require_extra
from tests.command_line import FcnDeploy, refused

#: Of every extra what is imported of it; all are absent at once.
ABSENT = (
    "torch", "torchvision", "safetensors", "onnxscript", "tensorrt", "tensorrt_rtx_bindings",
    "onnxruntime_ep_nv_tensorrt_rtx", "cuda", "pynvml", "openvino", "ncnn", "pycocotools", "yaml",
    "tensorboardX", "mlperf_loadgen", "prometheus_client", "starlette", "uvicorn", "model_signing",
    "ray", "av",
)  # fmt: skip
#: Command line → the package it names, the extra, and a word of what can be done without.
REFUSED: dict[str, tuple[str, str, str]] = {
    "train": ("torch", "train", ""),
    "export RUN": ("torch", "train", "copy the .onnx file"),
    "import torchvision:fcn_resnet50": ("torch", "train", "import onnx:FILE"),
    "import python:shop:Net": ("torch", "train", "import onnx:FILE"),
    "parity RUN --backend ort --data synthetic": ("torch", "train", "--save-outputs"),
    "parity RUN --backend torch --images photos --save-outputs t.json": (
        "torch", "train", "--backend ort",
    ),
    "predict RUN photos --backend torch": ("torch", "train", "--backend ort"),
    "evaluate RUN --data synthetic --backend torch": ("torch", "train", "--backend ort"),
    "bench RUN --backend torch-compile": ("torch", "train", "--backend ort"),
    "predict RUN photos --backend openvino": ("openvino", "openvino", ""),
    "bench RUN --backend openvino-bf16": ("openvino", "openvino", ""),
    "predict RUN photos --backend ncnn": ("ncnn", "ncnn", ""),
    "predict RUN film.mp4": ("av", "video", ""),
    "predict RUN photos --engine ray": ("ray", "ray", ""),
    "build RUN": ("tensorrt", "trt", ""),
    "build RUN --product trt-rtx": ("onnxruntime_ep_nv_tensorrt_rtx", "rtx", ""),
    "predict RUN photos --backend trt": ("tensorrt", "trt", ""),
    "serve RUN": ("prometheus_client", "serve", ""),
    "data convert coco coco.json --out out": ("pycocotools", "convert", ""),
}  # fmt: skip
SCRIPT = f"""
import contextlib, io, json, sys
for name in {ABSENT!r}:
    sys.modules[name] = None
from fcn_deploy.cli import main
ended = {{}}
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line.split())
        except SystemExit as stop:
            code = stop.code
    ended[line] = [code, err.getvalue(), out.getvalue()]
print(json.dumps(ended))
"""
Ended = dict[str, tuple[int, str, str]]


@pytest.fixture(scope="module")
def bare(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """All command lines, in one interpreter without the packages."""
    here = tmp_path_factory.mktemp("bare")
    (here / "RUN").mkdir()
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(tiny_folder / name, here / "RUN")
    (here / "photos").mkdir()
    Image.new("RGB", (64, 48), (90, 120, 30)).save(here / "photos" / "a.png")
    (here / "film.mp4").touch()
    (here / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    lines = [*REFUSED, "doctor", "predict RUN photos --out masks"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(lines), capture_output=True, text=True, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (here / "masks" / "a.png").is_file()  # the runtime alone suffices for this one
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", REFUSED)
def test_a_command_names_the_extra_it_needs(bare: Ended, line: str) -> None:
    code, err, _ = bare[line]
    package, extra, otherwise = REFUSED[line]
    assert code == 2, err
    assert len(err.splitlines()) == 1, err
    assert f"needs {package}, which cannot be imported" in err
    assert f"pip install 'fcn-deploy[{extra}]'" in err
    assert otherwise in err


def test_the_doctor_names_what_each_backend_lacks(bare: Ended) -> None:
    code, _, out = bare["doctor"]
    assert code == 0
    for extra in ("train", "openvino", "ncnn", "trt", "rtx"):
        assert f"pip install 'fcn-deploy[{extra}]'" in out, extra


def test_what_needs_no_extra_runs(bare: Ended) -> None:
    assert bare["predict RUN photos --out masks"][0] == 0


def test_a_list_in_yaml_names_its_extra(
    fcn_deploy: FcnDeploy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycocotools")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0 0 1 0 1 1\n")
    (tmp_path / "data.yaml").write_text("names: [road]\n")
    monkeypatch.setitem(sys.modules, "yaml", None)
    done = fcn_deploy("data", "convert", "yolo", tmp_path, "--out", tmp_path / "out")
    refused(done, "data.yaml needs yaml", "pip install 'fcn-deploy[convert]'")


def test_a_package_that_is_there_and_broken_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtbb.so: cannot open shared object file", name="openvino._py")

    monkeypatch.setattr("fcn_deploy.core.extras.importlib.import_module", broken)
    with pytest.raises(MissingExtraError, match=r"needs openvino, .* \(libtbb\.so: cannot open"):
        require_extra("backend openvino", "openvino", "openvino")


def test_what_fails_otherwise_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(name: str) -> None:
        raise RuntimeError("no such CPU")

    monkeypatch.setattr("fcn_deploy.core.extras.importlib.import_module", raises)
    assert missing_extra("backend openvino", "openvino", "openvino") is None


Patched = Callable[[dict[str, list[str]], dict[str, str]], None]


@pytest.fixture
def distributions(monkeypatch: pytest.MonkeyPatch) -> Patched:
    """Let other distributions be installed: the owners of packages, and versions."""

    def patch(owners: dict[str, list[str]], versions: dict[str, str]) -> None:
        monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
        monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
        monkeypatch.setattr("fcn_deploy.machine.description.describe_versions", dict)

    return patch


def test_the_doctor_warns_of_two_onnxruntimes(
    fcn_deploy: FcnDeploy, distributions: Patched
) -> None:
    distributions(
        {"onnxruntime": ["onnxruntime-gpu", "onnxruntime", "onnxruntime"]},
        {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"},
    )
    out = fcn_deploy("doctor").out
    assert "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.1: " in out
    assert "CPUExecutionProvider" in out
    assert "warning: they lie in the same folder" in out
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in out


def test_the_doctor_says_which_onnxruntime_it_is(
    fcn_deploy: FcnDeploy, distributions: Patched
) -> None:
    distributions({"onnxruntime": ["onnxruntime"]}, {"onnxruntime": "1.31.1"})
    out = fcn_deploy("doctor").out
    assert "\n  onnxruntime 1.31.1: " in out
    assert "warning" not in out
