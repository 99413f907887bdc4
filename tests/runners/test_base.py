"""Backends as values: found by name at the last moment, and where each of them runs."""

import subprocess
import sys

import pytest

from fcn_deploy.commands.shared.backends import require_backends
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.runner import BASELINES
from fcn_deploy.runners.base import BACKENDS, find_backend, open_runner

LIBRARIES = ("torch", "onnxruntime", "openvino", "ncnn", "onnx", "tensorrt")
ON_CPU = (
    "ort", "ncnn", "openvino", "openvino-bf16", "openvino-int8x3", "original", "baseline",
)  # fmt: skip
ON_GPU = ("ort-cuda", "ort-rtx", "trt", "baseline-cuda")


@pytest.mark.parametrize("name", [*BACKENDS, *BASELINES])
def test_a_backend_bears_the_name_by_which_it_is_found(name: str) -> None:
    assert find_backend(name).name == name


def test_the_contract_loads_no_backend() -> None:
    code = (
        "import sys, fcn_deploy.runners.base\n"
        f"print([name for name in {LIBRARIES!r} if name in sys.modules],"
        " sorted(name for name in sys.modules if name.startswith('fcn_deploy.runners.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] ['fcn_deploy.runners.base']\n"


def test_where_each_backend_runs() -> None:
    kinds = {name: find_backend(name).runs_on for name in (*BACKENDS, *BASELINES)}
    assert {name for name, kind in kinds.items() if kind == "cpu"} == set(ON_CPU)
    assert {name for name, kind in kinds.items() if kind == "cuda"} == set(ON_GPU)
    assert find_backend("torch").device_of("cuda") == "cuda"
    assert find_backend("ort").device_of("cuda") == "auto"


@pytest.mark.parametrize(
    ("names", "device", "other"), [(ON_CPU, "cuda", "ort-cuda"), (ON_GPU, "cpu", "ort")]
)
def test_another_device_than_a_backend_s_own_is_an_error_of_one_line(
    names: tuple[str, ...], device: str, other: str, tiny_run: Run
) -> None:
    for name in names:
        with pytest.raises(BackendError) as refused:
            open_runner(tiny_run, name, device=device)
        assert refused.value.exit_code == 2
        assert str(refused.value).startswith(f"backend {name} runs on ")
        assert str(refused.value).endswith(
            f"--device is PyTorch's; drop --device {device}, or use --backend {other}"
        )


def test_of_several_backends_one_must_run_on_the_device_that_was_asked_for() -> None:
    require_backends(["ort", "torch"], "cpu")
    require_backends(["ort", "torch"], "cuda")  # ``torch`` takes it, or says that there is no GPU
    require_backends(["ort"], "auto")
    with pytest.raises(BackendError, match="backend ort runs on the CPU"):
        require_backends(["ort", "ncnn"], "cuda")
    with pytest.raises(BackendError, match="no backend 'tensorflow'"):
        require_backends(["tensorflow"], "cuda")


def test_what_a_backend_takes_does_not_depend_on_the_machine() -> None:
    taken = {
        name: [precision.value for precision in Precision if find_backend(name).takes(precision)]
        for name in ("torch", "ort", "ncnn", "ort-cuda", "baseline")
    }
    assert taken == {
        "torch": ["fp32", "fp16"],
        "ort": [precision.value for precision in Precision],
        "ncnn": ["fp32"],
        "ort-cuda": ["fp32", "fp16"],
        "baseline": ["fp32"],
    }
