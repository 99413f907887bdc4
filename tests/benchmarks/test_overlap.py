"""The script that measures how close ``predict`` comes to the slower of its stages."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import overlap
from fcn_deploy.core.errors import ImageError
from tests.fakes import FakeRunner


def save_pictures(folder: Path, count: int = 5) -> list[Path]:
    generator = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        size = (8, 9 + number % 2, 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path)
    return paths


def test_the_share_is_predict_over_the_slower_stage_of_the_same_repeat() -> None:
    rates = {
        overlap.DECODE: [100.0, 10.0],
        overlap.COMPUTE: [20.0, 40.0],
        overlap.PREDICT: [19.0, 5.0],
    }
    assert overlap.shares(rates) == [0.95, 0.5]
    assert overlap.spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0 to 3.0)"


def test_the_stages_take_turns_in_rotating_order() -> None:
    seen: list[str] = []
    stages = {name: lambda name=name: seen.append(name) for name in "abc"}
    pace = overlap.interleaved(stages, 7, 3)  # type: ignore[arg-type]
    assert "".join(seen) == "abcbcacab"
    for figures in (pace.pictures_per_s, pace.cpu_ms):
        assert {name: len(values) for name, values in figures.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(rate > 0 for values in pace.pictures_per_s.values() for rate in values)


def test_cpu_time_is_that_of_all_threads_for_one_picture() -> None:
    def work() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass

    def busy() -> None:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    pace = overlap.interleaved({"busy": busy}, 4, 1)
    assert pace.cpu_ms["busy"][0] >= 2 * 50 / 4


@pytest.mark.parametrize("batch", [1, 2])
def test_every_stage_has_all_pictures_in_every_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    save_pictures(tmp_path)
    runner, file = FakeRunner(), tmp_path / "out" / "overlap.json"
    monkeypatch.setattr(overlap, "run_from_argument", lambda run, trust: None)
    monkeypatch.setattr(overlap, "open_backend", lambda *_, **__: runner)
    words = ["RUN", str(tmp_path), "--batch", str(batch), "--repeats", "3", "--json", str(file)]
    done = CliRunner().invoke(overlap.overlap, words)
    assert done.exit_code == 0, done.output
    written = json.loads(file.read_text())
    assert (written["kind"], written["pictures"], written["batch"]) == ("overlap", 5, batch)
    for figures in (written["pictures_per_s"], written["cpu_ms_per_picture"]):
        assert {len(values) for values in figures.values()} == {3}
    assert written["share_of_the_slower_stage"] == overlap.shares(written["pictures_per_s"])
    # Computing and predicting, once to warm up and three times for the figures.
    assert sum(shape[0] for shape in runner.shapes) == 2 * 4 * 5
    assert max(shape[0] for shape in runner.shapes) == batch


def test_a_picture_that_gets_no_mask_ends_the_measurement(tmp_path: Path) -> None:
    files = save_pictures(tmp_path)
    files[2].write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"2\.png"):
        overlap.predict_all(FakeRunner(), files, 1, tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    save_pictures(tmp_path, 1)
    Image.new("RGB", (3, 2)).save(tmp_path / "0.jpg")
    done = CliRunner().invoke(overlap.overlap, ["RUN", str(tmp_path)])
    assert "0 is there twice" in str(done.exception)
