"""The target device: Python 3.10 without torch runs builder and runner, and their tests."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGET_PYTHON = os.environ.get("TARGET_PYTHON")
TESTS = (
    "commands/test_build.py",
    "core/test_shape_profile.py",
    "runners/test_trt.py",
    "runners/test_trt_engines.py",
    "runners/test_trt_graphs.py",
    "runners/test_trt_streams.py",
    "tensorrt/test_api.py",
    "tensorrt/test_build.py",
    "tensorrt/test_build_missing.py",
    "tensorrt/test_build_options.py",
    "tensorrt/test_builder.py",
    "tensorrt/test_engine_file.py",
    "tensorrt/test_engine_match.py",
    "tensorrt/test_layers.py",
    "tensorrt/test_rtx.py",
)
SCRIPT = """
import sys
sys.modules["torch"] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(
    TARGET_PYTHON is None,
    reason="set TARGET_PYTHON to a Python 3.10 with numpy, pillow, click, rich, onnx, "
    "cuda-bindings, pytest and hypothesis",
)
def test_builder_and_runner_pass_their_tests_without_torch() -> None:
    assert TARGET_PYTHON is not None
    done = subprocess.run(
        [TARGET_PYTHON, "-c", SCRIPT, "--noconftest", "-p", "no:cacheprovider",
         *(str(ROOT / "tests" / name) for name in TESTS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
