"""``--backend auto``: what was proven is opened, and what is not so any more is said aloud."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from fcn_deploy.commands.shared.proven_backend import choose_backend, open_chosen
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import open_runner
from tests.result_files import add_bench, bare_row

#: Milliseconds of each backend; OpenVINO is the fastest.
TIMES = {"ort": (20.0, 20.2, 20.1, 20.3, 19.9, 20.0), "openvino": (10.0, 10.2, 10.1, 9.9, 10, 10)}
Prove = Callable[[RunnerDescription], None]


@pytest.fixture
def proven(tiny_run: Path, tmp_path: Path, compared: Path) -> Run:
    """A run whose results say that `ort` and `openvino` were proven and timed here."""
    run = Run(tmp_path / "proven")
    run.root.mkdir()
    for name in ("model.onnx", "model.safetensors"):
        shutil.copy(tiny_run / name, run.root)
    runners = []
    for backend in TIMES:
        with open_runner(run, backend) as opened:
            runners.append(opened.describe())
    document = read_json(compared / "ort.json", "")
    (result,) = document["results"]
    for runner in runners:
        proof = {**document, "results": [{**result, "candidate": runner.to_json()}]}
        write_json(run.parity_folder / f"{runner.backend}.json", proof)
    rows = [bare_row(runner, TIMES[runner.backend]) for runner in runners]
    add_bench(run, *rows, name="all")
    return run


def opened(run: Run, **options: object) -> str:
    with open_chosen(run, choose_backend(run, **options)) as runner:  # type: ignore[arg-type]
        return runner.describe().backend


def test_the_fastest_that_was_proven_is_opened_and_named(
    proven: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opened(proven) == "openvino"
    line = capsys.readouterr().out
    assert "backend: openvino fp32, the fastest of 2 proven here" in line
    assert "parity/openvino.json" in line
    assert "bench/all.json" in line


def test_what_was_named_is_taken_in_silence(
    proven: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opened(proven, backend="ort") == "ort"
    assert capsys.readouterr().out == ""


def test_a_model_file_that_has_changed_falls_back_aloud(
    proven: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(proven.root / "model.onnx")
    model.producer_version = "changed"
    onnx.save(model, proven.root / "model.onnx")
    assert opened(proven) == "ort"
    line = capsys.readouterr().out
    assert "backend: ort; the model file has changed since backends were proven" in line
    assert "`fcn-deploy ship" in line


def test_another_machine_falls_back_aloud(
    proven: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fcn_deploy.machine.description._cpu_model", lambda: "Another CPU")
    assert opened(proven) == "ort"
    assert "proven on another machine only" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("backend", "proven_then", "said"),
    [
        (
            "openvino",
            {"library": "OpenVINO 2001.1"},
            "is not what was proven, OpenVINO 2001.1; ort is taken",
        ),
        (
            "openvino",
            {"digest": "sha256:before"},
            "model.onnx is not the file that was proven; ort is taken",
        ),
        ("trt", {}, "trt was proven here and cannot be opened now"),
    ],
)
def test_what_has_changed_since_it_was_chosen_falls_back_aloud(
    proven: Run,
    capsys: pytest.CaptureFixture[str],
    backend: str,
    proven_then: dict[str, str],
    said: str,
) -> None:
    chosen = choose_backend(proven)
    assert chosen.proven is not None
    then = replace(chosen.proven, **proven_then)  # type: ignore[arg-type]
    with open_chosen(proven, replace(chosen, backend=backend, proven=then)) as runner:
        assert runner.describe().backend == "ort"
    assert said in capsys.readouterr().err


def test_a_typed_precision_is_kept_where_another_backend_is_taken(proven: Run) -> None:
    chosen = choose_backend(proven)
    assert chosen.proven is not None
    then = replace(chosen.proven, library="OpenVINO 2001.1")
    half = replace(chosen, proven=then, asked=Precision.FP16)
    with pytest.raises(FcnDeployError, match="--fp16"):  # this run has no such file
        open_chosen(proven, half)


def test_what_was_copied_here_is_not_told_to_ship(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tiny_run / "model.onnx", tmp_path)
    assert choose_backend(Run(tmp_path)).backend == "ort"
    line = capsys.readouterr().out
    assert line == "backend: ort; no gate of `parity` has passed for this run\n"


def test_a_damaged_result_proves_nothing_and_is_named(
    proven: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (proven.parity_folder / "openvino.json").write_text("{", encoding="utf-8")
    assert opened(proven) == "ort"
    printed = capsys.readouterr()
    assert "openvino.json" in printed.err
    assert "backend: ort fp32" in printed.out
