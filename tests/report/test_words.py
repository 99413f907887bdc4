"""Figures and sentences: what is said of results that the real rooms made."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.results import bench
from fcn_deploy.results.format import gate_words, number, percent, verdict_words
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
    verdict,
)


def lines_of(run: Run) -> dict[str, str]:
    return {line.label: line.sentence for line in summary_lines(read_results(run))}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (0, "0"), (2.345, "2.35"), (9.996, "10.0"), (999.9, "1,000"),
        (123456, "123,000"), (0.04567, "0.0457"), (0.00012345, "0.000123"), (1e-7, "1.00e-07"),
        (-1.5, "-1.50"), (1.79e308, "1.79e+308"),
    ],
)  # fmt: skip
def test_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "n/a"), (0, "0%"), (1, "100%"), (0.5, "50.0%"), (0.99961, "99.961%"),
        (0.999999, "99.9999%"), (0.9999999999, "99.99999999%"), (0.0001, "0.0100%"),
        (2e-6, "0.000200%"), (5.4e-7, "<0.0001%"),
    ],
)  # fmt: skip
def test_percentages_never_round_up_to_all(share: float | None, text: str) -> None:
    shown = percent(share)
    assert shown == text


def test_summary_says_masks_and_speed(full_run: Run) -> None:
    lines = lines_of(full_run)
    assert lines["ort fp32"] == (
        "same masks (gate passed on 2 pictures and odd sizes), 2.00× faster than the plain export "
        "(2.00–2.10), end-to-end, batch 1, 320×480"
    )
    assert lines["torch fp32"].startswith("the reference for the masks, 2.00× slower")
    assert "tie with the plain export (0.976–1.02× its speed)" in lines["ort fp16"]
    assert "MASKS NOT CHECKED: run `fcn-deploy parity" in lines["ort fp16"]
    assert "--backend ort --fp16`" in lines["ort fp16"]
    assert "MASKS DIFFER, THE GATE FAILED" in lines["swapped fp32"]
    assert "speed not measured: run `fcn-deploy bench" in lines["swapped fp32"]
    states = [line.state for line in summary_lines(read_results(full_run))]
    assert states == ["failed", "unchecked", "passed", "reference"]


def test_the_speed_of_different_masks_is_not_praised(full_run: Run) -> None:
    write_json(
        full_run.bench_folder / "swapped.json",
        bench_document(BASELINE, row(described("swapped"), 1.0, 1.1, 1.0)),
    )
    assert lines_of(full_run)["swapped fp32"].endswith(", for different masks")


def test_flips_within_the_gate_are_not_called_nothing(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    path = run.parity_folder / "ort.json"
    document = json.loads(path.read_text())
    document["results"][0] |= {"agreement": 0.9999999, "flips": 1}
    write_json(path, document)
    said = "(gate passed on 2 pictures and odd sizes, 99.99999% of the pixels agree)"
    assert said in lines_of(run)["ort fp32"]


@pytest.mark.parametrize(
    ("precision", "agreement", "said"),
    [
        (
            "bf16",
            0.99765,
            "masks within the bf16 gate (99.76% of the pixels agree on 2 pictures and odd sizes)",
        ),
        (
            "int8",
            0.99989,
            "masks within the int8 gate (99.989% of the pixels agree on 2 pictures and odd sizes)",
        ),
        (
            "bf16",
            0.9999,
            "same masks (gate passed on 2 pictures and odd sizes, 99.99% of the pixels agree)",
        ),
    ],
)
def test_masks_within_a_wide_gate_are_not_called_the_same(
    run: Run, add_parity: AddParity, precision: str, agreement: float, said: str
) -> None:
    add_parity(run, "ort")
    path = run.parity_folder / "ort.json"
    document = json.loads(path.read_text())
    document["results"][0] |= {"agreement": agreement, "flips": 9}
    document["results"][0]["candidate"]["precision"] = precision
    write_json(path, document)
    (line,) = summary_lines(read_results(run))
    assert line.state == "passed"
    assert line.sentence.startswith(f"{said}; speed not measured")


def test_pictures_without_labels_are_named_as_such(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    path = run.parity_folder / "ort.json"
    document = json.loads(path.read_text())
    (result,) = document["results"]
    labelled = json.dumps(result)
    result["images"]["count"] = 1
    result["scores"] = None
    result["checks"] = [check for check in result["checks"] if check["name"] != "mIoU"]
    write_json(path, document)
    said = lines_of(run)["ort fp32"]
    assert said.startswith(
        "same masks (gate passed on 1 picture and odd sizes, none labelled); speed"
    )
    # A mask that holds nothing but void is no label.
    document["results"] = [json.loads(labelled)]
    document["results"][0]["scores"]["reference_miou"] = None
    write_json(path, document)
    assert lines_of(run)["ort fp32"].startswith(
        "same masks (gate passed on 2 pictures and odd sizes, none lab"
    )
    # Of two that show the same the labelled one is told.
    document["results"].append(json.loads(labelled))
    write_json(path, document)
    assert lines_of(run)["ort fp32"].startswith(
        "same masks (gate passed on 2 pictures and odd sizes); speed"
    )


@pytest.mark.parametrize("widened", [True, False])
def test_halves_computed_in_float32_prove_nothing_of_a_gpu(widened: bool) -> None:
    candidate = described("ort", Precision.FP16)
    candidate = replace(candidate, arithmetic="fp32" if widened else "fp16")
    limits = "; computed in float32 here: says nothing of a GPU's rounding" if widened else ""
    assert gate_words(candidate, 1, 101, labelled=True) == (
        f"same masks (gate passed on 101 pictures and odd sizes{limits})"
    )
    assert gate_words(candidate, 0.998, 1, labelled=False) == (
        "masks within the fp16 gate "
        f"(99.8% of the pixels agree on 1 picture and odd sizes, none labelled{limits})"
    )


def test_parity_of_another_checkpoint_or_file_does_not_count(full_run: Run) -> None:
    full_run.checkpoint.write_bytes(b"trained again")
    lines = lines_of(full_run)
    assert "OLDER CHECKPOINT ONLY" in lines["ort fp32"]
    assert "measured on an older checkpoint" in lines["ort fp32"]
    full_run.checkpoint.unlink()

    exported_again = replace(described("ort"), digest="sha256:other")
    rows = (BASELINE, row(exported_again, 20.0, 21.0, 20.0))
    write_json(full_run.bench_folder / "all.json", bench_document(*rows))
    assert "ANOTHER FILE THAN THE ONE MEASURED" in lines_of(full_run)["ort fp32"]


def test_every_machine_has_a_line_of_its_own(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    document = bench_document(BASELINE, FAST)
    write_json(run.bench_folder / "a.json", document)
    document["machine"] |= {"cpu": "Another CPU", "cores": 64}
    write_json(run.bench_folder / "b.json", document)
    lines = lines_of(run)
    here, elsewhere = sorted(lines, key=lambda label: "Another CPU" in label)
    assert here.startswith("ort fp32 on ")
    assert lines[here].startswith(
        "same masks (gate passed on 2 pictures and odd sizes), 2.00× faster"
    )
    assert elsewhere == "ort fp32 on Another CPU, 64 cores"
    # The masks were compared on the other machine: its instructions are not these.
    assert lines[elsewhere].startswith("MASKS NOT CHECKED ON THIS MACHINE: run `fcn-deploy parity")
    assert "2.00× faster" in lines[elsewhere]


def test_a_little_memory_makes_no_other_machine(run: Run) -> None:
    document = bench_document(BASELINE, FAST)
    for name, memory in (("a", 23.5), ("b", 23.1)):
        document["machine"] |= {"memory_gib": memory}
        write_json(run.bench_folder / f"{name}.json", document)
    assert [*lines_of(run)] == ["ort fp32"]
    document["machine"] |= {"memory_gib": 47.0}
    write_json(run.bench_folder / "b.json", document)
    assert len(lines_of(run)) == 2


def test_single_stream_end_to_end_at_the_smallest_batch_is_named_first(run: Run) -> None:
    cases = {
        "offline": {"scenario": bench.OFFLINE},
        "batch": {"batch_size": 4},
        "host": {"tier": bench.HOST},
        "first": {},
    }
    rows = [
        row(runner, *(factor * ms for ms in (20.0, 20.5, 20.0)), **changes)
        for factor, changes in enumerate(cases.values(), start=1)
        for runner in (described("baseline"), described("ort"))
    ]
    write_json(run.bench_folder / "b.json", bench_document(*rows))
    assert lines_of(run)["ort fp32"].endswith("end-to-end, batch 1, 320×480")
    write_json(run.bench_folder / "b.json", bench_document(*rows[:2]))
    assert lines_of(run)["ort fp32"].endswith("offline, end-to-end, batch 1, 320×480")


def test_what_loadgen_says(run: Run) -> None:
    rows = [
        FAST,
        replace(FAST, loadgen=verdict()),
        replace(FAST, loadgen=verdict("it was too short")),
    ]
    write_json(run.bench_folder / "b.json", bench_document(*rows))
    (measured,) = read_results(run).benches
    said = [verdict_words(entry) for entry in measured.rows]
    assert said == ["timed loop", "VALID", "INVALID: it was too short"]


@pytest.mark.parametrize(
    ("invalid", "said"),
    [
        ((), ""),
        (("ort",), ", which MLPerf LoadGen calls INVALID"),
        (("baseline",), ", against a plain export that MLPerf LoadGen calls INVALID"),
        (("ort", "baseline"), ", which MLPerf LoadGen calls INVALID, and the plain export as well"),
        (("baseline on another tier", "baseline on a GPU"), ""),
    ],
)
def test_speed_over_an_invalid_baseline_is_named(
    run: Run, invalid: tuple[str, ...], said: str
) -> None:
    cases = {
        "baseline on another tier": (described("baseline"), bench.HOST),
        "baseline on a GPU": (described("baseline-cuda", device="cuda:0"), bench.END_TO_END),
        "baseline": (described("baseline"), bench.END_TO_END),
        "ort": (described("ort"), bench.END_TO_END),
    }
    rows = [
        row(runner, 20.0, 20.5, 20.0, tier=tier,
            loadgen=verdict("it was too short") if name in invalid else verdict())
        for name, (runner, tier) in cases.items()
    ]  # fmt: skip
    write_json(run.bench_folder / "b.json", bench_document(*rows))
    assert lines_of(run)["ort fp32"].endswith(f"end-to-end, batch 1, 320×480{said}")


def test_without_a_baseline_the_time_is_said(run: Run) -> None:
    write_json(run.bench_folder / "b.json", bench_document(FAST))
    assert (
        "20.0 ms per query, end-to-end, batch 1, 320×480, no baseline" in lines_of(run)["ort fp32"]
    )


def test_commands_to_repeat(tmp_path: Path, add_parity: AddParity) -> None:
    run = Run(tmp_path / "my run")
    write_json(run.metrics, metrics())
    options = ["--backend", "ort", "--fp16", "--images", "my <val> images"]
    add_parity(run, "ort16", typed={"arguments": ["then"], "options": options})
    document = bench_document(BASELINE, LEVEL, options=("--fp16", "--backend", "ort"))
    write_json(run.bench_folder / "b.json", document)
    quoted = f"'{run.root}'"
    assert repeat_commands(read_results(run)) == [
        f"fcn-deploy train --out {quoted} --data 'my data' --epochs 3",
        f"fcn-deploy export {quoted}",
        f"fcn-deploy export {quoted} --fp16",
        f"fcn-deploy parity {quoted} --backend ort --fp16 --images 'my <val> images'",
        f"fcn-deploy bench {quoted} --fp16 --backend ort",
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


def test_a_bench_is_repeated_with_the_options_that_were_typed(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    document = bench_document(BASELINE, FAST)
    document["options"] = ["--device", "cpu", "--images", "my pictures"]
    write_json(run.bench_folder / "b.json", document)
    commands = repeat_commands(read_results(run))
    assert f"fcn-deploy bench {run.root} --device cpu --images 'my pictures'" in commands


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
    file = tmp_path / "b.json"
    typed = {"arguments": ["runs/a"], "options": ["--int8", "--limit", "4", "--bisect"]}
    write_json(file, bisect_document() | typed)
    assert "fcn-deploy parity runs/a --int8 --limit 4 --bisect" in repeat_commands(
        read_files([file])
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_file_of_a_bisection_is_exported_first(run: Run, precision: str) -> None:
    document = bisect_document()
    document["candidate"] |= {"file": f"model.{precision}.onnx", "precision": precision}
    write_json(run.bisect_folder / "b.json", document)
    assert f"fcn-deploy export {run.root} --{precision}" in repeat_commands(read_results(run))


def test_an_engine_does_not_say_which_run_it_stems_from(tmp_path: Path) -> None:
    engine = described("trt", Precision.FP16, "cuda:0 (H200)")
    engine = replace(engine, file="engines/fcn.fp16.plan", digest="sha256:engine")
    measured = tmp_path / "bench.json"
    document = bench_document(row(engine, 2.0, 2.1, 2.0))
    document["options"] = ["--backend", "trt", "--fp16"]
    write_json(measured, document)
    assert "fcn-deploy bench RUN --backend trt --fp16" in repeat_commands(read_files([measured]))
    (line,) = summary_lines(read_files([measured]))
    assert "run `fcn-deploy parity RUN --backend trt --fp16`" in line.sentence
    # Another runner of the same command does say it.
    other = replace(described("torch"), file="runs/a/model.safetensors")
    document = bench_document(row(engine, 2.0, 2.1, 2.0), row(other, 20.0, 21.0, 20.0))
    write_json(measured, document | {"options": ["--fp16"]})
    assert "fcn-deploy bench runs/a --fp16" in repeat_commands(read_files([measured]))


def test_the_peers_are_measured_again_by_make(tmp_path: Path) -> None:
    document = bench_document(BASELINE, FAST, row(described("peer:eager"), 50.0, 51.0, 52.0))
    document["options"] = ["--images", "my $pictures", "--repeats", "3"]
    document["rows"][0]["runner"]["file"] = "runs/a/baseline.onnx"
    write_json(tmp_path / "b.json", document)
    (command,) = [c for c in repeat_commands(read_files([tmp_path / "b.json"])) if "make" in c]
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
