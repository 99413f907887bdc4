"""From training to the report, each command as typed, on few scenes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK


@pytest.mark.slow
def test_the_story(fcn_deploy: FcnDeploy, few_scenes: None, tmp_path: Path) -> None:
    trained = fcn_deploy("train", *QUICK).succeeded()
    assert "training on the built-in synthetic scenes" in trained.out
    assert "read 4 training and 8 validation examples of 8 classes" in trained.out
    assert "epoch 1/1" in trained.out
    again = fcn_deploy("train", *QUICK)
    refused(again, "exists already", "--overwrite")

    fcn_deploy("export", "--fp16").succeeded()
    exported = fcn_deploy("export").succeeded()
    assert "masks checked against PyTorch" in exported.out

    compared = fcn_deploy("parity", "--backend", "ort")
    # one epoch leaves near ties, so the gate's verdict is free; that it was measured is not
    assert compared.code in (0, 1), compared.err
    content = json.loads((tmp_path / "runs/fcn/parity/ort.fp32.json").read_text())
    (result,) = content["results"]
    assert result["images"]["count"] == 8
    assert result["decided_flips"] == 0
    for view in result["pictures"][0]["views"].values():
        assert view.startswith("data:image/")

    fcn_deploy(
        "bench", "--backend", "ort", "--size", "64x96", "--repeats", "3", "--seconds", "0.01",
        "--no-cold-start",
    ).succeeded()  # fmt: skip
    rows = json.loads((tmp_path / "runs/fcn/bench/ort.fp32.64x96.b1.json").read_text())["rows"]
    assert {row["runner"]["backend"] for row in rows} == {"ort", "baseline"}

    Image.new("RGB", (50, 40), (90, 60, 30)).save(tmp_path / "a.png")
    for backend in ("torch", "ort"):
        fcn_deploy(
            "predict", "a.png", "--backend", backend, "--out", backend, "--overlay"
        ).succeeded()
    masks = [np.asarray(Image.open(tmp_path / b / "a.png")) for b in ("torch", "ort")]
    assert masks[0].shape == (40, 50)
    assert (masks[0] == masks[1]).mean() > 0.99

    fcn_deploy("report").succeeded()
    assert "<html" in (tmp_path / "runs/fcn/report.html").read_text()
