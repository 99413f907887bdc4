"""The report's first sentences: what is said of each runner's masks and speed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.results import scenarios
from fcn_deploy.results.read import read_results
from tests.result_files import (
    BASELINE,
    FAST,
    AddParity,
    add_bench,
    bench_document,
    described,
    editing,
    row,
    verdict,
)


def lines_of(run: Run) -> dict[str, str]:
    return {line.label: line.sentence for line in summary_lines(read_results(run))}


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
    with editing(run.parity_folder / "ort.json") as document:
        document["results"][0] |= {"agreement": 0.9999999, "flips": 1}
    said = "(gate passed on 2 pictures and odd sizes, 99.99999% of the pixels agree)"
    assert said in lines_of(run)["ort fp32"]


@pytest.mark.parametrize(
    ("precision", "agreement", "said"),
    [
        ("bf16", 0.99765, "masks within the bf16 gate (99.76% of the pixels agree on {on})"),
        ("int8", 0.99989, "masks within the int8 gate (99.989% of the pixels agree on {on})"),
        ("bf16", 0.9999, "same masks (gate passed on {on}, 99.99% of the pixels agree)"),
    ],
)
def test_masks_within_a_wide_gate_are_not_called_the_same(
    run: Run, add_parity: AddParity, precision: str, agreement: float, said: str
) -> None:
    add_parity(run, "ort")
    with editing(run.parity_folder / "ort.json") as document:
        document["results"][0] |= {"agreement": agreement, "flips": 9}
        document["results"][0]["candidate"]["precision"] = precision
    (line,) = summary_lines(read_results(run))
    assert line.state == "passed"
    told = said.format(on="2 pictures and odd sizes")
    assert line.sentence.startswith(f"{told}; speed not measured")


def test_pictures_without_labels_are_named_as_such(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    path = run.parity_folder / "ort.json"
    same = "same masks (gate passed on"
    labelled = read_json(path, "")["results"][0]
    with editing(path) as document:
        (result,) = document["results"]
        result["images"]["count"] = 1
        result["scores"] = None
        result["checks"] = [check for check in result["checks"] if check["name"] != "mIoU"]
    said = lines_of(run)["ort fp32"]
    assert said.startswith(f"{same} 1 picture and odd sizes, none labelled); speed")
    # A mask that holds nothing but void is no label.
    void = {**labelled, "scores": {**labelled["scores"], "reference_miou": None}}
    with editing(path) as document:
        document["results"] = [void]
    assert lines_of(run)["ort fp32"].startswith(f"{same} 2 pictures and odd sizes, none lab")
    # Of two that show the same the labelled one is told.
    with editing(path) as document:
        document["results"].append(labelled)
    assert lines_of(run)["ort fp32"].startswith(f"{same} 2 pictures and odd sizes); speed")


def test_parity_of_another_checkpoint_or_file_does_not_count(full_run: Run) -> None:
    full_run.checkpoint.write_bytes(b"trained again")
    lines = lines_of(full_run)
    assert "OLDER CHECKPOINT ONLY" in lines["ort fp32"]
    assert "measured on an older checkpoint" in lines["ort fp32"]
    full_run.checkpoint.unlink()

    exported_again = replace(described("ort"), digest="sha256:other")
    rows = (BASELINE, row(exported_again, 20.0, 21.0, 20.0))
    add_bench(full_run, *rows, name="all")
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
        "offline": {"scenario": scenarios.OFFLINE},
        "batch": {"batch_size": 4},
        "host": {"tier": scenarios.HOST},
        "first": {},
    }
    rows = [
        row(runner, *(factor * ms for ms in (20.0, 20.5, 20.0)), **changes)
        for factor, changes in enumerate(cases.values(), start=1)
        for runner in (described("baseline"), described("ort"))
    ]
    add_bench(run, *rows)
    assert lines_of(run)["ort fp32"].endswith("end-to-end, batch 1, 320×480")
    add_bench(run, *rows[:2])
    assert lines_of(run)["ort fp32"].endswith("offline, end-to-end, batch 1, 320×480")


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
        "baseline on another tier": (described("baseline"), scenarios.HOST),
        "baseline on a GPU": (described("baseline-cuda", device="cuda:0"), scenarios.END_TO_END),
        "baseline": (described("baseline"), scenarios.END_TO_END),
        "ort": (described("ort"), scenarios.END_TO_END),
    }
    rows = [
        row(runner, 20.0, 20.5, 20.0, tier=tier,
            loadgen=verdict("it was too short") if name in invalid else verdict())
        for name, (runner, tier) in cases.items()
    ]  # fmt: skip
    add_bench(run, *rows)
    assert lines_of(run)["ort fp32"].endswith(f"end-to-end, batch 1, 320×480{said}")


def test_without_a_baseline_the_time_is_said(run: Run) -> None:
    add_bench(run, FAST)
    assert (
        "20.0 ms per query, end-to-end, batch 1, 320×480, no baseline" in lines_of(run)["ort fp32"]
    )
