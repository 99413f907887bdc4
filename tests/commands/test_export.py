"""``fcn-deploy export``: no file is lost to a full disk or to a wrong ``--out``."""

import shutil
from pathlib import Path

import pytest

from tests.command_line import FcnDeploy, refused


def test_a_full_disk_leaves_the_old_file(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(fcn_deploy("export", tiny_run, "--out", target), "disk is full")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


def test_export_never_writes_over_what_it_reads(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.fp16.onnx"):
        shutil.copy(tiny_run / name, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    refused(fcn_deploy("export", ".", "--out", "model.safetensors"), ".onnx")
    fcn_deploy("export", "model.fp16.onnx").succeeded()
    assert (tmp_path / "model.onnx").is_file()
    for name, content in before.items():
        assert (tmp_path / name).read_bytes() == content
