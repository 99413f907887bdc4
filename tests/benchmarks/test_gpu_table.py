"""The GPU's table in the README: rows of `trt` beside the others, and ratios taken in turns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_checks
import markdown_page
import pytest
from gpu_page.results import read_gpu_results
from gpu_page.table import NOTHING, PART, gpu_table

from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.results import scenarios
from fcn_deploy.results.read import read_files
from tests.benchmarks.gpu_result_files import (
    DAY_AFTER,
    H200,
    L4,
    device_row,
    gpu_row,
    on_gpu,
    write_bench,
    write_device,
    write_gate,
)
from tests.benchmarks.gpu_scripts import load_script
from tests.result_files import row, verdict

README = gpu_checks.ROOT / "README.md"
LARGE: dict[str, Any] = {"batch_size": 32, "scenario": scenarios.OFFLINE}


def table_of(folder: Path) -> str:
    return gpu_table(read_gpu_results(folder), folder, folder / "gpu-checks.md")


def lines_of(folder: Path) -> list[list[str]]:
    """Return the cells of the table's lines, its head first."""
    lines = [line for line in table_of(folder).splitlines() if line.startswith("| ")]
    return [line[2:-2].split(" | ") for line in lines if "---" not in line]


def write_everything(folder: Path) -> None:
    """Write a result of everything that the table can show."""
    both = [gpu_row("trt", 1.0, 1.1, 1.2), gpu_row("trt", 0.4, tier=scenarios.HOST)]
    int8 = gpu_row("trt", 1.5, precision=Precision.INT8)
    write_bench(folder / "bench-trt.json", *both, int8)
    write_bench(
        folder / "bench-others.json",
        gpu_row("torch", 5.0),
        gpu_row("torch-graphs", 2.0),
        gpu_row("torch-compile", 4.0),
        gpu_row("ort-cuda", 6.0),
        gpu_row("baseline-cuda", 9.0),
    )
    host = {**LARGE, "tier": scenarios.HOST}
    write_bench(
        folder / "offline.json",
        gpu_row("trt", 4.0, **LARGE),
        gpu_row("trt", 2.0, **host),
        gpu_row("torch-compile", 16.0, **LARGE),
    )
    engine = write_device(folder / "tier.json", device_row(1, 0.1), device_row(32, 2.0))
    others = write_bench(
        folder / "at-once.json",
        gpu_row("torch", 12.0, **host),
        gpu_row("torch-graphs", 9.0, **host),
        gpu_row("baseline-cuda", 66.0, **host),
    )
    load_script("turns").main([str(folder / "turns.json"), str(engine), str(others)])
    write_gate(folder / "gate.json", on_gpu("trt"))
    write_gate(folder / "gate-int8.json", on_gpu("trt", Precision.INT8), failed=True)


def test_without_a_figure_of_trt_it_is_a_sentence(tmp_path: Path) -> None:
    write_bench(tmp_path / "others.json", gpu_row("torch", 5.0))
    write_gate(tmp_path / "gate.json", on_gpu("trt"))
    link = "[`gpu-checks.md`](gpu-checks.md)"
    assert table_of(tmp_path) == f"{NOTHING}; every check and its result: {link}."


def test_all_that_it_shows(tmp_path: Path) -> None:
    write_everything(tmp_path)
    head, *lines = lines_of(tmp_path)
    assert head == [
        "backend", "1 image, end to end, ms", "from memory, ms",
        "32 images, end to end, images/s", "from memory, images/s", "masks as in PyTorch",
    ]  # fmt: skip
    assert lines == [
        ["`trt` fp16", "1.10 [1.00–1.20]", "0.400 [0.400–0.400]", "8,000", "16,000",
         "99.958%, 101 images"],
        ["`trt` int8", "1.50 [1.50–1.50]", "–", "–", "–", "gate FAILED: 99.958%, 101 images"],
        # From memory at batch 32, where most images pass, then those that lead elsewhere.
        ["`torch-graphs` fp16", "2.00 [2.00–2.00]", "–", "–", "3,560", "not measured"],
        ["`torch-compile` fp16", "4.00 [4.00–4.00]", "–", "2,000", "–", "not measured"],
        ["`ort-cuda` fp16", "6.00 [6.00–6.00]", "–", "–", "–", "not measured"],
        ["plain export", "9.00 [9.00–9.00]", "–", "–", "485", "not measured"],
    ]  # fmt: skip
    words = table_of(tmp_path).splitlines()[0]
    assert words.startswith(f"{H200}, 2026-12-01, TensorRT 8.6.0 ([`at-once.json`](at-once.json), ")
    assert (
        "In turns, 32 images from memory to memory: `trt` fp16 **1.50** (1.50–1.50) × PyTorch "
        "(`torch-graphs` fp16) and 11.0 (11.0–11.0) × the plain export."
    ) in words
    assert "On the GPU alone, `trt` fp16: 0.100 ms for 1, 2.00 ms for 32." in words
    assert (
        "at batch 32, `trt` fp16 reaches 74.0% of what the slower of bus and GPU allows." in words
    )
    assert "only ratios in turns compare" in words


def test_invalid_rows_other_gpus_and_other_networks_are_not_shown(tmp_path: Path) -> None:
    trt, torch = gpu_row("trt", 1.0), gpu_row("torch", 5.0)
    write_bench(tmp_path / "trt.json", trt, created=DAY_AFTER)
    invalid = gpu_row("ort-cuda", 0.1, loadgen=verdict("too short"))
    elsewhere = replace(torch, runner=on_gpu("torch", gpu=L4))
    other = replace(torch, runner=replace(torch.runner, checkpoint_digest="sha256:other"))
    cpu = replace(torch, runner=replace(torch.runner, device="cpu"))
    write_bench(tmp_path / "others.json", invalid, elsewhere, other, cpu)
    assert [line[0] for line in lines_of(tmp_path)] == ["backend", "`trt` fp16"]
    write_bench(tmp_path / "torch.json", torch)
    assert [line[0] for line in lines_of(tmp_path)][1:] == ["`trt` fp16", "`torch` fp16"]


def test_the_newest_row_of_a_case_is_shown(tmp_path: Path) -> None:
    write_bench(tmp_path / "a.json", gpu_row("trt", 1.0), created=DAY_AFTER)
    write_bench(tmp_path / "b.json", gpu_row("trt", 7.0))
    assert lines_of(tmp_path)[1][1] == "1.00 [1.00–1.00]"
    assert "compare" not in table_of(tmp_path)  # one file


def write_tournament(folder: Path) -> None:
    """Write a newer result of each kind, of an engine whose argmax is a tournament."""
    runner = replace(on_gpu("trt"), tail="tournament")
    rows = [
        replace(gpu_row("trt", ms, **more), runner=runner)
        for ms, more in ((7.0, {}), (8.0, {**LARGE, "tier": scenarios.HOST}))
    ]
    write_bench(folder / "tournament.json", *rows, created=DAY_AFTER)
    shapes = device_row(1, 0.7), device_row(32, 7.0, of_floor=0.5)
    engine = write_device(
        folder / "tournament-tier.json", *shapes, runner=runner, created=DAY_AFTER
    )
    turns = folder / "tournament-turns.json"
    load_script("turns").main([str(turns), str(engine), str(folder / "at-once.json")])
    write_gate(folder / "tournament-gate.json", runner, failed=True, created=DAY_AFTER)


def test_an_engine_with_a_tournament_is_told_apart(tmp_path: Path) -> None:
    write_everything(tmp_path)
    before = lines_of(tmp_path)
    write_tournament(tmp_path)
    lines = lines_of(tmp_path)
    (other,) = (line for line in lines if line not in before)
    assert [line for line in lines if line != other] == before
    assert other == [
        "`trt` fp16, tournament", "7.00 [7.00–7.00]", "–", "–", "4,000",
        "gate FAILED: 99.958%, 101 images",
    ]  # fmt: skip
    words = table_of(tmp_path).splitlines()[0]
    for said in (
        "memory to memory: `trt` fp16 **1.50** (1.50–1.50) × PyTorch",
        "memory to memory: `trt` fp16, tournament **0.429** (0.429–0.429) × PyTorch",
        "On the GPU alone, `trt` fp16: 0.100 ms for 1, 2.00 ms for 32.",
        "On the GPU alone, `trt` fp16, tournament: 0.700 ms for 1, 7.00 ms for 32.",
        "at batch 32, `trt` fp16 reaches 74.0% of",
        "at batch 32, `trt` fp16, tournament reaches 50.0% of",
    ):
        assert said in words


def test_the_readme_has_room_for_all_of_it(tmp_path: Path) -> None:
    write_everything(tmp_path)
    write_tournament(tmp_path)
    text = markdown_page.with_part(README.read_text(encoding="utf-8"), PART, table_of(tmp_path))
    assert text is not None
    assert len(text.splitlines()) <= 120


def test_the_readmes_table_of_the_cpu_is_that_of_the_file_it_names() -> None:
    text = README.read_text(encoding="utf-8")
    first, last = markdown_page.markers(markdown_page.SHORT)
    block = text[text.index(first) + len(first) : text.index(last)].strip()
    file = block[block.index("(`") + 2 : block.index("`)")]
    (measured,) = read_files([gpu_checks.ROOT / file]).benches
    assert markdown_page.short_table(measured, file) == block


def test_every_page_gets_its_table_from_the_results_given(tmp_path: Path) -> None:
    write_everything(tmp_path)
    pages = gpu_checks.gpu_pages(tmp_path)
    assert set(pages) == {gpu_checks.CHECKS, *gpu_checks.WITH_TABLE}
    for target in gpu_checks.WITH_TABLE:
        assert "| `trt` fp16 | 1.10 [1.00–1.20] |" in pages[target]
        assert NOTHING not in pages[target]


def test_a_page_without_a_place_for_the_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no place\n", encoding="utf-8")
    monkeypatch.setattr(gpu_checks, "WITH_TABLE", (page,))
    with pytest.raises(gpu_checks.ArtifactError, match=f"has no part {PART}"):
        gpu_checks.gpu_pages(tmp_path)


def test_a_cpu_row_named_trt_is_no_figure_of_a_gpu(tmp_path: Path) -> None:
    runner = replace(on_gpu("trt"), device="cpu")
    write_bench(tmp_path / "bench.json", row(runner, 1.0, 1.0, 1.0))
    write_json(tmp_path / "other.json", {"kind": "overlap"})
    assert table_of(tmp_path).startswith(NOTHING)


def test_what_a_file_tells_has_no_meaning_in_markdown(tmp_path: Path) -> None:
    gpu = "x <!-- bench-gpu:end --> | y\n# z"
    usual = gpu_row("trt", 1.0, 1.1, 1.2)
    runner = replace(usual.runner, device=f"cuda:0 ({gpu})", library="TensorRT\n## 10 | <b>")
    write_bench(tmp_path / "one.json", replace(usual, runner=runner))
    table = table_of(tmp_path)
    assert "<" not in table
    assert not [line for line in table.splitlines() if line.startswith("#")]
