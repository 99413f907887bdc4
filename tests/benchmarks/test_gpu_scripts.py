"""What the GPU script measures with: the folder listed eightfold, and the ratios between turns."""

import fnmatch
import json
import os
import re
import subprocess
import tarfile
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


def test_a_turn_that_was_cut_off_has_no_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{turn}-{name}.json" for turn in (1, 2, 3) for name in ("tier", "bench")]
    for index, document in ((0, tier(1000)), (1, bench(100)), (2, tier(1000)), (5, bench(10))):
        write_json(files[index], document)
    script, target = load_script("turns"), tmp_path / "turns.json"
    script.main([str(target), *map(str, files)])
    assert [row["ratios"] for row in read_json(target, repair="")["rows"]] == [[10], [5]]
    said = capsys.readouterr().out
    for name in ("2-bench.json", "3-tier.json"):
        assert f"{name} is missing" in said
    with pytest.raises(InputError, match="no turn has both of its files"):
        script.main([str(target), *map(str, files[2:])])


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
    # A training that left no metrics.json has failed.
    codes = run_sh(tmp_path / "out", "--only", "train-fcn.*|export|peers|turns")
    assert codes == {"turns": 0, "train-fcn32s": 1, "train-fcn8s": 1}
    waiting = (tmp_path / "out" / "not-run.txt").read_text().splitlines()
    assert waiting == ["export: needs model/model.safetensors", "peers: needs done/export.ok"]
    with tarfile.open(tmp_path / "out" / "results.tgz") as packed:
        assert {"./steps.jsonl", "./train-fcn32s.log", "./not-run.txt"} <= set(packed.getnames())
        assert not [name for name in packed.getnames() if name.startswith("./work")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "nowhere"], "nowhere holds no trained network"),
        (["--data", "nowhere"], "nowhere"),
        (["--nothing", "x"], "unknown option --nothing"),
        (["--run"], "--run needs a value"),
        (["--only", "("], "--only ( is no regular expression"),
        (["--only", "no-such-step"], "--only no-such-step names no step"),
        (["--work", "two words"], "give folders without spaces"),
    ],
)
def test_what_is_not_there_is_said_before_any_step(
    options: list[str], message: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        ["bash", SCRIPTS / "run.sh", "out", *options],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "out" / "steps.jsonl").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    work = tmp_path / "out" / "work"
    (work / "done").mkdir(parents=True)
    (work / "done" / "turns").touch()
    for held in (tmp_path / "out", work):
        result = subprocess.run(
            ["flock", held, "bash", SCRIPTS / "run.sh", tmp_path / "out", "--only", "turns"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 2
        assert "another run uses" in result.stderr
    assert [file.name for file in work.rglob("*")] == ["done", "turns"]


def test_steps_can_be_chosen_and_run_again(tmp_path: Path) -> None:
    options = ("--only", "build-(fp|int).*|turns", "--work", str(tmp_path / "work"))
    for turn in (1, 2):
        assert [*run_sh(tmp_path / f"out-{turn}", *options)] == [
            "build-fp16", "turns", "build-int8", "build-fp32"
        ]  # fmt: skip


def test_an_engine_that_cannot_be_built_for_this_gpu_is_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi = tmp_path / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\necho 9.0\n")
    nvidia_smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert [*run_sh(tmp_path / "out", "--only", "rtx-.*|turns")] == ["turns"]
    nvidia_smi.write_text("#!/bin/sh\necho 8.9\n")
    assert [*run_sh(tmp_path / "out-2", "--only", "rtx-.*")] == ["rtx-build", "rtx-load"]


def test_backends_that_are_missing_are_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, target = load_script("backends"), tmp_path / "backends"
    reasons = {"torch": None, "torch-graphs": None, "ort-cuda": "onnxruntime-gpu is missing"}
    monkeypatch.setattr(script, "unavailable_reason", reasons.get)
    script.main([str(target), *reasons])
    assert target.read_text().split() == ["--backend", "torch", "--backend", "torch-graphs"]
    assert capsys.readouterr().out == "ort-cuda is left out: onnxruntime-gpu is missing\n"
    with pytest.raises(SystemExit, match="of ort-cuda none works here"):
        script.main([str(target), "ort-cuda"])


def test_the_list_of_checks_names_steps_that_there_are() -> None:
    listed = (SCRIPTS / "steps.txt").read_text(encoding="utf-8")
    steps = set(re.findall(r"^\+?([a-z0-9-]+) \|", listed, re.MULTILINE))
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
