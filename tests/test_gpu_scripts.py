"""What the GPU script measures with: the folder listed eightfold, and the ratios between turns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fcn_deploy.artifacts import read_json, write_json
from fcn_deploy.dataset import SceneDataset, VocDataset, write_voc_layout

SCRIPTS = Path(__file__).parents[1] / "benchmarks" / "gpu"


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_every_training_picture_is_there_eight_times(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "eightfold"
    train, val = SceneDataset(0, 3, (32, 40)), SceneDataset(1, 2, (32, 40))
    write_voc_layout(data, {"train": train, "val": val})
    (folder / "left").mkdir(parents=True)
    script("eightfold").eightfold(data, folder)
    assert not (folder / "left").exists()
    written = VocDataset.open(folder, "train")
    assert len(written) == 24
    assert len(VocDataset.open(folder, "val")) == 2
    assert written.class_names == train.class_names
    for index in range(24):
        np.testing.assert_array_equal(written.mask(index), train.mask(index % 3))


def tier(rate: float) -> dict[str, Any]:
    shape = {"batch": 32, "size": [320, 480]}
    return {
        "runner": {"backend": "trt"},
        "rows": [
            {**shape, "pinned": {"images_per_s": rate}},
            {"batch": 64, "size": [320, 480], "error": "out of memory"},
        ],
    }


def bench(rate: float) -> dict[str, Any]:
    runner = {"backend": "baseline-cuda", "precision": "fp32"}
    row = {"runner": runner, "tier": "host", "size": [320, 480], "images_per_s": rate}
    return {"rows": [{**row, "batch_size": 32}, {**row, "batch_size": 64}]}


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
    script("turns").main([str(target), *map(str, files)])
    (row,) = read_json(target, repair="")["rows"]  # batch 64 has no engine
    assert row["ratios"] == [10, 10, 11]
    assert (row["median"], row["range"]) == (10, [10, 11])
    assert (row["over"], row["tier"], row["batch"]) == ("baseline-cuda", "host", 32)
    assert "10.00× (10.00 to 11.00) baseline-cuda fp32 host" in capsys.readouterr().out
