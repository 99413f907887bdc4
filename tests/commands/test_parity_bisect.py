"""``fcn-deploy parity --bisect`` as typed: the first layer beyond its tolerance, or none."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused


@pytest.mark.slow
def test_bisect_names_the_layer_where_an_overflow_starts(
    fcn_deploy: FcnDeploy, overflowing: Path, tmp_path: Path
) -> None:
    run = overflowing.parent
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    fcn_deploy("export", run).succeeded()
    failed = fcn_deploy("export", run, "--fp16").failed()
    assert "--unchecked" in failed.err
    assert not (run / "model.fp16.onnx").exists()
    refused(fcn_deploy("parity", run, "--bisect", "--images", photos), "export", "--fp16")
    unchecked = fcn_deploy("export", run, "--fp16", "--unchecked")
    assert (unchecked.code, "NOT CHECKED" in unchecked.out) == (0, True)

    bisected = fcn_deploy("parity", run, "--bisect", "--images", photos).failed()
    first = "network.body.layer2.0.conv1"
    assert f"first layer beyond its tolerance: {first} (NaN or infinite)" in bisected.out
    document = json.loads((run / "bisect/model.fp16.json").read_text())
    assert (document["kind"], document["first"]) == ("bisect", first)
    refused(fcn_deploy("parity", run, "--bisect", "--backend", "ort"), "drop --backend")
    refused(
        fcn_deploy("parity", run / "model.onnx", "--bisect", "--images", photos), "reference itself"
    )


@pytest.mark.slow
def test_bisect_of_a_good_export_finds_nothing(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "a.png")
    words = ("--bisect", "--images", "a.png", "--json", "b.json")
    finished = fcn_deploy("parity", tiny_run, *words).succeeded()
    assert "every layer keeps its tolerance" in finished.out
