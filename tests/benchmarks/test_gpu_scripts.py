"""What the GPU script measures with: the folder listed eightfold, and the ratios between turns."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import VocDataset, write_voc_layout
from tests.benchmarks.gpu_scripts import SCRIPTS, load_script


def test_every_training_picture_is_there_eight_times(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "eightfold"
    train, val = SceneDataset(0, 3, (32, 40)), SceneDataset(1, 2, (32, 40))
    write_voc_layout(data, {"train": train, "val": val})
    (folder / "left").mkdir(parents=True)
    load_script("eightfold").eightfold(data, folder)
    assert not (folder / "left").exists()
    written = VocDataset.open(folder, "train")
    assert len(written) == 24
    assert len(VocDataset.open(folder, "val")) == 2
    assert written.class_names == train.class_names
    for index in range(24):
        np.testing.assert_array_equal(written.mask(index), train.mask(index % 3))


def test_the_data_is_not_replaced_by_itself(tmp_path: Path) -> None:
    scenes = SceneDataset(0, 1, (32, 40))
    write_voc_layout(tmp_path / "data", {"train": scenes, "val": scenes})
    for folder in (tmp_path / "data", tmp_path):
        with pytest.raises(InputError, match="would replace the data"):
            load_script("eightfold").eightfold(tmp_path / "data", folder)
    assert len(VocDataset.open(tmp_path / "data", "train")) == 1


def tier(rate: float, network: str = "sha256:a") -> dict[str, Any]:
    shape = {"batch": 32, "size": [320, 480]}
    return {
        "runner": {"backend": "trt", "checkpoint_digest": network},
        "rows": [
            {**shape, "pinned": {"images_per_s": rate}, "host": {"images_per_s": rate / 2}},
            {"batch": 64, "size": [320, 480], "error": "out of memory"},
        ],
    }


def bench(rate: float) -> dict[str, Any]:
    runner = {"backend": "baseline-cuda", "precision": "fp32", "checkpoint_digest": "sha256:a"}
    row = {
        "runner": runner, "tier": "host", "size": [320, 480], "images_per_s": rate,
        "loadgen": {"valid": True},
    }  # fmt: skip
    wrong = {**row, "runner": {**runner, "backend": "torch"}, "loadgen": {"valid": False}}
    return {
        "rows": [{**row, "batch_size": 32}, {**row, "batch_size": 64}, {**wrong, "batch_size": 32}]
    }


def test_each_turn_gives_a_ratio_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    # The whole machine is twice as slow in the second turn: the ratio is not.
    for number, (engine, other) in enumerate([(1000, 100), (500, 50), (1100, 100)]):
        for name, document in (("tier", tier(engine)), ("bench", bench(other))):
            files.append(tmp_path / f"{number}-{name}.json")
            write_json(files[-1], document)
    target = tmp_path / "turns.json"
    load_script("turns").main([str(target), *map(str, files)])
    # Batch 64 has no engine, and torch no valid figure.
    pinned, host = read_json(target, repair="")["rows"]
    assert pinned["ratios"] == [10, 10, 11]
    assert (pinned["median"], pinned["range"]) == (10, [10, 11])
    assert (pinned["over"], pinned["tier"], pinned["batch"]) == ("baseline-cuda", "host", 32)
    assert (host["engine_tier"], host["ratios"]) == ("host", [5, 5, 5.5])
    said = capsys.readouterr().out
    assert "pinned, 32 × [320, 480]: 10.00× (10.00 to 11.00) baseline-cuda fp32 host" in said


def test_turns_of_two_networks_have_no_ratio() -> None:
    with pytest.raises(InputError, match="not of one trained network"):
        load_script("turns").turns([(tier(1, "sha256:b"), bench(1))])


def run_sh(folder: Path, *options: str) -> dict[str, int]:
    """Run the whole script with a Python that does nothing; return each step's exit code."""
    result = subprocess.run(
        ["bash", str(SCRIPTS / "run.sh"), str(folder), "--torch-python", "true", *options],
        capture_output=True, text=True, cwd=folder.parent, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert result.stderr == ""
    lines = (folder / "steps.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    codes = {step["step"]: step["exit_code"] for step in steps}
    assert len(codes) == len(steps)
    return codes


def test_the_script_goes_on_after_a_step_that_failed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    codes = run_sh(tmp_path / "out", "--data", str(data))
    # A training that left no metrics.json has failed, and nvidia-smi may be missing.
    assert {name for name, code in codes.items() if code} >= {"train-fcn32s", "train-fcn8s"}
    assert codes["peers"] == codes["turns"] == codes["parity-record"] == 0
    assert not (tmp_path / "out" / "work" / "reference").exists()


def test_steps_can_be_chosen(tmp_path: Path) -> None:
    options = ("--only", "build-.*|turns", "--work", str(tmp_path / "work"))
    assert [*run_sh(tmp_path / "out", *options)] == [
        "build-fp16", "build-fp32", "build-int8", "turns"
    ]  # fmt: skip


def test_the_list_of_checks_names_steps_that_there_are(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    steps = {*run_sh(tmp_path / "out", "--data", str(data)), "rtx-load"}  # where a plan was built
    page = (SCRIPTS.parents[1] / "docs" / "gpu-checks.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    named = [
        name.split()[0].replace("…", "*")
        for row in rows
        if not row[1].startswith("–")  # by hand
        for name in re.findall(r"`([^`]*)`", re.sub(r"\([^)]*\)", "", row[1]))
    ]
    assert len(named) > 30
    assert [name for name in named if not fnmatch.filter(steps, name)] == []
