"""The script that measures how close ``predict`` comes to the slower of its stages."""

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks import overlap
from fcn_deploy.core.errors import ArtifactError, ImageError, InputError
from fcn_deploy.core.files import read_json, write_json
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


class Overlap:
    """The command on a few pictures, with a fake for the backend."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures, self.file = tmp_path / "pictures", tmp_path / "out" / "overlap.json"
        self.pictures.mkdir()
        save_pictures(self.pictures)
        self.runner = FakeRunner()
        monkeypatch.setattr(overlap, "run_from_argument", lambda run, trust: None)
        monkeypatch.setattr(overlap, "open_backend", lambda *_, **__: self.runner)

    def words(self, *options: str) -> list[str]:
        return ["RUN", str(self.pictures), "--repeats", "3", "--json", str(self.file), *options]

    def __call__(self, *options: str) -> str:
        """Measure, and return what is printed."""
        done = CliRunner().invoke(overlap.overlap, self.words(*options))
        assert done.exit_code == 0, done.output
        return done.output

    def document(self) -> dict[str, Any]:
        return read_json(self.file, repair="")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overlap:
    return Overlap(tmp_path, monkeypatch)


@pytest.mark.parametrize("batch", [1, 2])
def test_every_stage_has_all_pictures_in_every_repeat(command: Overlap, batch: int) -> None:
    command("--batch", str(batch))
    document = command.document()
    assert (document["kind"], document["schema"], document["batch"]) == ("overlap", 3, batch)
    (run,) = document["runs"]
    assert (run["pictures"], run["batch"]) == (5, batch)
    for figures in (run["pictures_per_s"], run["cpu_ms_per_picture"]):
        assert {stage: len(values) for stage, values in figures.items()} == dict.fromkeys(
            overlap.STAGES, 3
        )
    assert run["share_of_the_slower_stage"] == overlap.shares(run["pictures_per_s"])
    # Computing and predicting, once to warm up and three times for the figures.
    shapes = command.runner.shapes
    assert sum(shape[0] for shape in shapes) == 2 * 4 * 5
    assert max(shape[0] for shape in shapes) == batch


def test_a_run_is_appended_and_the_medians_are_of_all_repeats(command: Overlap) -> None:
    command()
    first = command.document()
    older = first["runs"][0]
    # An older run, 100 times faster, of other versions, that measured no CPU time.
    older["versions"] = {"numpy": "1.0"}
    older["cpu_ms_per_picture"] = None
    older["pictures_per_s"] = {
        stage: [100 * rate for rate in rates] for stage, rates in older["pictures_per_s"].items()
    }
    write_json(command.file, first)
    command.runner = FakeRunner()
    printed = command("--repeats", "4", "--limit", "2")
    document = command.document()
    kept, new = document.pop("runs")
    assert kept == older
    assert document == {name: first[name] for name in document}
    assert (new["pictures"], len(new["share_of_the_slower_stage"])) == (2, 4)
    rates = {
        stage: kept["pictures_per_s"][stage] + new["pictures_per_s"][stage]
        for stage in overlap.STAGES
    }
    lines = printed.splitlines()
    assert lines[0] == "7 repeats in 2 runs"
    for line, stage in zip(lines[1:4], overlap.STAGES, strict=True):
        assert line == f"{stage:14} {overlap.spread(rates[stage], '.2f')} pictures/s"
    assert overlap.spread(overlap.shares(rates), ".1%") in lines[4]
    assert lines[5].split() == ["its", "interval", "none:", "fewer", "than", "5", "runs"]
    assert overlap.spread(new["cpu_ms_per_picture"][overlap.PREDICT], ".1f") in lines[6]


def test_the_interval_of_a_share_is_as_wide_as_its_runs_differ() -> None:
    def width(repeats: int, run_spread: float) -> float:
        draw = np.random.default_rng(1)
        runs = [
            (0.95 + run_spread * draw.standard_normal() + 0.01 * draw.standard_normal(repeats))
            for _ in range(10)
        ]
        interval = overlap.share_interval([run.tolist() for run in runs])
        assert interval is not None
        low, high = interval
        assert low < 0.95 < high
        assert overlap.share_interval([run.tolist() for run in runs]) == interval
        return high - low

    # Fifty repeats of ten runs that differ are ten figures, not five hundred.
    assert width(50, 0.03) > 0.02
    assert width(50, 0.0) < 0.005
    assert overlap.share_interval([[0.9, 0.95]] * 4) is None


@pytest.mark.parametrize(
    ("runner", "options", "difference"),
    [
        (FakeRunner(backend="other"), [], "backend fake, this run other"),
        (FakeRunner(digest="sha256:0"), [], "digest sha256:fake, this run sha256:0"),
        (FakeRunner(threads=2), [], "threads 1, this run 2"),
        (FakeRunner(), ["--batch", "2"], "batch 1, this run 2"),
    ],
)
def test_a_file_of_anything_else_is_refused_before_anything_is_measured(
    command: Overlap,
    runner: FakeRunner,
    options: list[str],
    difference: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command()
    before = command.file.read_bytes()
    command.runner = runner
    monkeypatch.setattr("sys.argv", ["overlap.py", *command.words(*options)])
    with pytest.raises(SystemExit) as left:
        overlap.main()
    assert left.value.code == 2
    expected = f"overlap: {command.file} has {difference}; name another file\n"
    assert capsys.readouterr().err == expected
    assert runner.shapes == []
    assert command.file.read_bytes() == before


def test_another_machine_and_a_file_that_is_no_overlap_are_refused(command: Overlap) -> None:
    command()
    document = command.document()
    common = {name: value for name, value in document.items() if name in {"digest", "cpu"}}
    assert overlap.recorded_runs(command.file, common) == document["runs"]
    with pytest.raises(InputError, match=r"has cpu .*, this run Z80"):
        overlap.recorded_runs(command.file, {**common, "cpu": "Z80"})
    for name, value in {"kind": "bench", "schema": 2}.items():
        write_json(command.file, {**document, name: value})
        with pytest.raises(InputError, match=f"has {name} {value}, this run"):
            overlap.recorded_runs(command.file, common)


@pytest.mark.parametrize("figures", ["pictures_per_s", "cpu_ms_per_picture"])
def test_a_file_with_a_lost_repeat_is_refused(command: Overlap, figures: str) -> None:
    command()
    document = command.document()
    document["runs"][0][figures][overlap.COMPUTE].pop()
    write_json(command.file, document)
    with pytest.raises(ArtifactError, match=rf"runs\[0\]\.{figures}\.compute alone is not a list"):
        overlap.recorded_runs(command.file, {})


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *author, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package, script = tmp_path / "fcn_deploy", tmp_path / "benchmarks" / "overlap.py"
    for file in (package / "code.py", script):
        file.parent.mkdir()
        file.touch()
    monkeypatch.setattr(overlap, "__file__", str(script))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert overlap.source_commit() is None
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")[:7]
    assert overlap.source_commit() == commit
    script.write_text("a result or a script may change")
    assert overlap.source_commit() == commit
    (package / "code.py").write_text("but not the package")
    assert overlap.source_commit() == commit + "+"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert overlap.source_commit() is None


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
