"""The report of single result files, also of several machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.machine.description import describe_machine
from fcn_deploy.report.page import write_merged_report
from fcn_deploy.report.summary import summary_lines
from fcn_deploy.results.read import read_files
from tests.command_line import FcnDeploy, refused
from tests.report.parsed_page import Page
from tests.result_files import BASELINE, FAST, bench_document


def test_results_of_several_machines_meet_and_are_not_ranked(full_run: Run, tmp_path: Path) -> None:
    document = bench_document(BASELINE, FAST)
    document["machine"] |= {"cpu": "Another CPU", "cores": 64}
    write_json(tmp_path / "far.json", document)
    files = [
        full_run.bench_folder / "all.json", tmp_path / "far.json",
        full_run.parity_folder / "ort.json",
    ]  # fmt: skip
    target = write_merged_report(files, tmp_path / "page.html")
    text = Page(target.read_text(encoding="utf-8")).text
    assert "3 result files" in text
    assert "Rows are ranked only within one file" in text
    assert "MASKS NOT CHECKED ON THIS MACHINE" in text
    for file in files:
        assert str(file) in text
    assert "No preview picture here" not in text
    for line in summary_lines(read_files(files)):
        assert "Another CPU" in line.label or describe_machine()["cpu"] in line.label


def test_the_order_of_files_does_not_matter_to_the_figures(full_run: Run, tmp_path: Path) -> None:
    files = [full_run.bench_folder / "all.json", full_run.parity_folder / "ort.json"]
    one, other = read_files(files), read_files(files[::-1])
    assert summary_lines(one) == summary_lines(other)


def test_files_meet_in_the_current_folder(
    full_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_merged_report([full_run.bench_folder / "all.json"]) == Path("report.html")
    assert (tmp_path / "report.html").is_file()


def test_a_result_is_not_overwritten_by_its_report(full_run: Run) -> None:
    file = full_run.bench_folder / "all.json"
    before = file.read_bytes()
    with pytest.raises(InputError, match="--out"):
        write_merged_report([file], file)
    assert file.read_bytes() == before


def test_the_command_tells_runs_and_files_apart(fcn_deploy: FcnDeploy, full_run: Run) -> None:
    bench, parity = full_run.bench_folder / "all.json", full_run.parity_folder / "ort.json"
    for words, written in (
        ([bench, parity], "report.html"),
        ([full_run.root], full_run.report),
        ([bench, "--out", "other.html"], "other.html"),
    ):
        assert fcn_deploy("report", *words).succeeded().out.strip() == f"wrote {written}"
    for mixture in ([full_run.root, bench], ["a run", "another"]):
        refused(fcn_deploy("report", *mixture))
