"""The page of what only a GPU can show: it says what the result files say, and nothing else."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_checks
import pytest
from gpu_page.checks import CHECKS, SECTIONS
from gpu_page.page import NOT_MEASURED, page
from gpu_page.results import read_gpu_results

from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.spec import Precision
from tests.benchmarks.gpu_page_lines import DOCS, lines_of, result_of
from tests.benchmarks.gpu_result_files import (
    DAY,
    DAY_AFTER,
    H200,
    L4,
    RESULTS,
    device_row,
    on_gpu,
    write_bench,
    write_device,
    write_gate,
)
from tests.result_files import described, metrics, row

TRT_GATE, ORT_GATE = "`trt` FP16", "`ort-cuda` FP16"


def test_the_pages_are_what_the_recorded_results_give() -> None:
    for target, text in gpu_checks.gpu_pages().items():
        repair = f"run `make gpu-checks`: {target.name} is not what benchmarks/results gives"
        assert target.read_text(encoding="utf-8") == text, repair


def test_the_page_changes_when_a_result_is_added_or_taken_away(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(RESULTS, folder)
    before = page(read_gpu_results(folder), DOCS)
    assert lines_of(before, TRT_GATE)[0][2] == NOT_MEASURED
    assert lines_of(before, ORT_GATE)[0][2].startswith("passed on 101 pictures: 99.958% of 17.87")

    added = write_gate(folder / "any-name.json", on_gpu("trt"))
    (cells,) = lines_of(page(read_gpu_results(folder), DOCS), TRT_GATE)
    assert cells[1] == "`parity-trt-fp16`"
    assert cells[2].startswith("passed on 101 pictures: 99.958% of 17.87 million pixels agree; 7,")
    assert cells[3:] == [H200, "2026-12-01", "TensorRT 8.6.0; reference PyTorch 2.11.0+cu130"]

    added.unlink()
    assert page(read_gpu_results(folder), DOCS) == before
    (folder / "nvidia-h100" / "parity-ort-cuda-fp16.json").unlink()
    after = page(read_gpu_results(folder), DOCS)
    assert lines_of(after, ORT_GATE)[0][2:] == [NOT_MEASURED, "–", "–", "–"]
    counts = [re.findall(r"^Measured: (\d+) of", text, re.MULTILINE) for text in (before, after)]
    assert int(counts[0][0]) - int(counts[1][0]) == 1


def test_without_results_nothing_is_measured(tmp_path: Path) -> None:
    text = page(read_gpu_results(tmp_path), DOCS)
    by_hand = sum(check.find is None for check in CHECKS)
    assert by_hand > 0
    said = f"Measured: 0 of {len(CHECKS) - by_hand} checks; {by_hand} more leave no result file."
    assert said in text
    assert text.count(NOT_MEASURED) == len(CHECKS) + 1  # the introduction says what it means
    assert "passed over" not in text


def test_the_same_on_a_cpu_answers_nothing(tmp_path: Path) -> None:
    write_gate(tmp_path / "gate.json", replace(on_gpu("ort-cuda"), device="cpu"))
    write_bench(tmp_path / "bench.json", row(described("trt", Precision.FP16), 1.0, 1.1, 1.2))
    write_json(tmp_path / "train.json", metrics(architecture="fcn8s-resnet18", device="cpu"))
    assert "Measured: 0 of" in page(read_gpu_results(tmp_path), DOCS)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"schema": 3}, "has schema 3, this version reads 4"),
        ({"kind": "experiment"}, "is of no kind that is read"),
        ({"results": 7}, "is damaged: results is not a list"),
    ],
)
def test_what_cannot_be_read_is_passed_over_and_named(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    file = write_gate(tmp_path / "gate.json", on_gpu("trt"), **changes)
    write_gate(tmp_path / "other.json", on_gpu("torch-graphs"))
    text = page(read_gpu_results(tmp_path), tmp_path)
    assert lines_of(text, TRT_GATE)[0][2] == NOT_MEASURED
    assert lines_of(text, "`torch-graphs` FP16")[0][2].startswith("passed")
    assert f"- [`{file.name}`]({file.name}): {why}" in text.splitlines()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("leak",), {"memory_in_use_mib_after": {"x": 1, "y": 2}}),
        (("rows", 0, "device", "repeats_ms"), [1.0, 0.0]),
        (("rows", 0, "device", "repeats_ms"), [-1.0]),
    ],
)
def test_a_figure_that_cannot_be_ends_no_page(
    tmp_path: Path, path: tuple[str | int, ...], value: Any
) -> None:
    file = write_device(tmp_path / "tier.json", device_row(1, 0.1))
    document = read_json(file, repair="")
    place: Any = document
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    write_json(file, document)
    text = page(read_gpu_results(tmp_path), tmp_path)
    assert f"- [`{file.name}`]({file.name}): is damaged" in text


def test_of_one_gpu_the_newest_counts_and_each_gpu_has_its_line(tmp_path: Path) -> None:
    write_gate(tmp_path / "new.json", on_gpu("trt"), created=DAY_AFTER)
    write_gate(tmp_path / "old.json", on_gpu("trt"), created=DAY, failed=True)
    write_gate(tmp_path / "l4.json", on_gpu("trt", gpu=L4), failed=True)
    first, second = lines_of(page(read_gpu_results(tmp_path), DOCS), TRT_GATE)
    assert [first[3], second[3]] == [H200, L4]
    assert first[2].startswith("passed on")
    assert second[2].startswith("FAILED (finite logits) on 101 pictures")


def test_the_gate_of_another_tail_has_a_line_of_its_own(tmp_path: Path) -> None:
    write_gate(tmp_path / "usual.json", on_gpu("trt"), failed=True)
    write_gate(
        tmp_path / "other.json", replace(on_gpu("trt"), tail="tournament"), created=DAY_AFTER
    )
    usual, other = lines_of(page(read_gpu_results(tmp_path), DOCS), TRT_GATE)
    assert usual[2].startswith("FAILED")
    assert other[2].startswith("tournament: passed")


def test_a_gate_without_a_stream_is_called_the_older_one(tmp_path: Path) -> None:
    file = write_gate(tmp_path / "gate.json", on_gpu("trt"))
    assert "by the gate before schema 4" in result_of(tmp_path, TRT_GATE)
    document = read_json(file, repair="")
    stream = {
        "batches": 1,
        "pictures": 1,
        "pixels": 1,
        "flips": 0,
        "widest_margin": 0,
        "refused": 0,
    }
    document["results"][0]["stream"] = stream
    write_json(file, document)
    assert "by the gate before" not in result_of(tmp_path, TRT_GATE)


def test_every_check_says_how_it_is_made_and_stands_once() -> None:
    for check in CHECKS:
        assert bool(check.steps) != bool(check.by_hand), check.what
        assert check.find is not None or check.by_hand, check.what
    for section in SECTIONS:
        names = [check.what for check in section.checks]
        assert len(set(names)) == len(names)
