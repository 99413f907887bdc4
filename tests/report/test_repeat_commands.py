"""The command lines that measure the results of a report again."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.results.read import read_files, read_results
from tests.result_files import (
    BASELINE,
    FAST,
    LEVEL,
    AddParity,
    bench_document,
    bisect_document,
    described,
    metrics,
    row,
)


def repeated(tmp_path: Path, document: dict[str, Any]) -> list[str]:
    """The commands of one result file."""
    write_json(tmp_path / "b.json", document)
    return repeat_commands(read_files([tmp_path / "b.json"]))


def test_commands_to_repeat(tmp_path: Path, add_parity: AddParity) -> None:
    run = Run(tmp_path / "my run")
    write_json(run.metrics, metrics())
    options = ["--backend", "ort", "--fp16", "--images", "my <val> images"]
    add_parity(run, "ort16", typed={"arguments": ["then"], "options": options})
    document = bench_document(BASELINE, LEVEL, options=("--fp16", "--images", "my pictures"))
    write_json(run.bench_folder / "b.json", document)
    quoted = f"'{run.root}'"
    assert repeat_commands(read_results(run)) == [
        f"fcn-deploy train --out {quoted} --data 'my data' --epochs 3",
        f"fcn-deploy export {quoted}",
        f"fcn-deploy export {quoted} --fp16",
        f"fcn-deploy parity {quoted} --backend ort --fp16 --images 'my <val> images'",
        f"fcn-deploy bench {quoted} --fp16 --images 'my pictures'",
        f"fcn-deploy report {quoted}",
    ]


def test_what_no_command_wrote_is_said_to_be_so(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort16")
    write_json(run.bisect_folder / "b.json", bisect_document())
    of_the_run = repeat_commands(read_results(run))
    for name in ("parity/ort16.json", "bisect/b.json"):
        assert f"# {name} was written by a program, not by a command" in of_the_run
    assert f"fcn-deploy parity {run.root}" in of_the_run
    file = run.parity_folder / "ort16.json"
    of_the_file = repeat_commands(read_files([file]))
    assert f"# {file} was written by a program, not by a command" in of_the_file
    assert [line for line in of_the_file if line.startswith("fcn-deploy")] == [
        f"fcn-deploy report {file}"
    ]


def test_the_default_run_needs_no_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run.from_argument(None)
    write_json(run.metrics, metrics())
    assert repeat_commands(read_results(run))[-1] == "fcn-deploy report"


def test_commands_of_merged_files(tmp_path: Path) -> None:
    document = bench_document(FAST, options=("--backend", "ort", "--batch", "1,8"))
    document["machine"] |= {"cpu": "A CPU\nrm -rf ~", "cores": 8}
    document["rows"][0]["runner"]["file"] = "my runs/a/model.onnx"
    file = tmp_path / "a file.json"
    write_json(file, document)
    assert repeat_commands(read_files([file])) == [
        "# on A CPU rm -rf ~, 8 cores",
        "fcn-deploy bench 'my runs/a' --backend ort --batch 1,8",
        "# wherever these files are",
        f"fcn-deploy report '{file}'",
    ]


def test_a_parity_is_repeated_with_the_words_that_were_typed(
    tmp_path: Path, add_parity: AddParity
) -> None:
    run = Run(tmp_path / "moved run")
    add_parity(run, "ort16")
    path = run.parity_folder / "ort16.json"
    document = json.loads(path.read_text())
    document["options"] = ["--backend", "ort", "--fp16", "--images", "my pictures", "--limit", "3"]
    typed = "--backend ort --fp16 --images 'my pictures' --limit 3"
    for arguments, there, anywhere in (
        ([], f" '{run.root}'", ""),
        (["runs/then"], f" '{run.root}'", " runs/then"),
        (["a run/x.onnx"], " 'a run/x.onnx'", " 'a run/x.onnx'"),
        (["ref 1.json", "cand.json"], " 'ref 1.json' cand.json", " 'ref 1.json' cand.json"),
    ):
        write_json(path, document | {"arguments": arguments})
        assert f"fcn-deploy parity{there} {typed}" in repeat_commands(read_results(run))
        assert f"fcn-deploy parity{anywhere} {typed}" in repeat_commands(read_files([path]))


def test_a_bisection_is_repeated_with_the_words_that_were_typed(tmp_path: Path) -> None:
    typed = {"arguments": ["runs/a"], "options": ["--int8", "--limit", "4", "--bisect"]}
    command = "fcn-deploy parity runs/a --int8 --limit 4 --bisect"
    assert command in repeated(tmp_path, bisect_document() | typed)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_file_of_a_bisection_is_exported_first(run: Run, precision: str) -> None:
    document = bisect_document()
    document["candidate"] |= {"file": f"model.{precision}.onnx", "precision": precision}
    write_json(run.bisect_folder / "b.json", document)
    assert f"fcn-deploy export {run.root} --{precision}" in repeat_commands(read_results(run))


def test_an_engine_does_not_say_which_run_it_stems_from(tmp_path: Path) -> None:
    engine = described("trt", Precision.FP16, "cuda:0 (H200)")
    engine = replace(engine, file="engines/fcn.fp16.plan", digest="sha256:engine")
    document = bench_document(row(engine, 2.0, 2.1, 2.0), options=("--backend", "trt", "--fp16"))
    assert "fcn-deploy bench RUN --backend trt --fp16" in repeated(tmp_path, document)
    (line,) = summary_lines(read_files([tmp_path / "b.json"]))
    assert "run `fcn-deploy parity RUN --backend trt --fp16`" in line.sentence
    # Another runner of the same command does say it.
    other = replace(described("torch"), file="runs/a/model.safetensors")
    rows = row(engine, 2.0, 2.1, 2.0), row(other, 20.0, 21.0, 20.0)
    document = bench_document(*rows, options=("--fp16",))
    assert "fcn-deploy bench runs/a --fp16" in repeated(tmp_path, document)


def test_the_peers_are_measured_again_by_make(tmp_path: Path) -> None:
    document = bench_document(BASELINE, FAST, row(described("peer:eager"), 50.0, 51.0, 52.0))
    document["options"] = ["--images", "my $pictures", "--repeats", "3"]
    document["rows"][0]["runner"]["file"] = "runs/a/baseline.onnx"
    (command,) = [c for c in repeated(tmp_path, document) if "make" in c]
    name, goal, target, flags = shlex.split(command)
    assert (name, goal, target) == ("make", "bench", "RUN=runs/a")
    words = flags.removeprefix("BENCH_FLAGS=").replace("$$", "$")
    assert shlex.split(words) == document["options"]


def test_every_part_of_merged_files_has_its_command(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    write_json(run.metrics, metrics())
    bisecting = ["--images", "scenes", "--bisect"]
    own = bisect_document() | {"arguments": ["runs/a"], "options": bisecting}
    other = bisect_document() | {"arguments": ["runs/a/other one.onnx"], "options": ["--bisect"]}
    other["machine"] |= {"cpu": "Another CPU"}
    write_json(tmp_path / "own.json", own)
    write_json(tmp_path / "other.json", other)
    commands = repeat_commands(
        read_files([run.metrics, tmp_path / "own.json", tmp_path / "other.json"])
    )
    assert commands[0].startswith("# on ")
    assert commands[1].startswith(f"fcn-deploy train --out {run.root} --data 'my data'")
    assert commands[2] == "fcn-deploy parity runs/a --images scenes --bisect"
    assert commands[3].startswith("# on Another CPU")
    assert commands[4] == "fcn-deploy parity 'runs/a/other one.onnx' --bisect"
    assert len(commands) == 7
