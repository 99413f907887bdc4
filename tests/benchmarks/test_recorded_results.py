"""The files of ``benchmarks/results``: read by today's code, and named on the page beside them."""

import json
import re
from pathlib import Path

import pytest
from gpu_page.results import GpuResults
from networks.schema import NETWORKS, NETWORKS_SCHEMA

from benchmarks import journal, overlap, serving
from fcn_deploy.core.files import read_json
from fcn_deploy.parity.tally import MAX_LISTED_FLIPS
from fcn_deploy.results.read import SCHEMAS, read_files

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"
FILES = sorted(RESULTS.rglob("*.json"))
OVERLAPS = [file for file in FILES if file.name.startswith("overlap-")]
#: Kinds of scripts beside the results, which no report shows.
SCRIPTS = {
    overlap.OVERLAP: overlap.OVERLAP_SCHEMA,
    NETWORKS: NETWORKS_SCHEMA,
    journal.JOURNAL: journal.JOURNAL_SCHEMA,
    serving.SERVING: serving.SERVING_SCHEMA,
}


def test_the_page_names_every_result_and_none_that_is_not_there() -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([^`]+\.json)`", page, re.MULTILINE)
    assert sorted(named) == [file.relative_to(RESULTS).as_posix() for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recorded_result_is_of_a_kind_and_schema_that_is_read(file: Path) -> None:
    document = read_json(file, repair="")
    kind = document.get("kind")
    assert (kind == overlap.OVERLAP) == (file in OVERLAPS)
    if kind in SCRIPTS:
        assert document["schema"] == SCRIPTS[kind]
    elif kind in SCHEMAS:
        assert read_files([file]).files == (str(file),)
    else:  # of the kinds that only scripts of `benchmarks` write
        GpuResults().add(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_recorded_bench_is_written_as_it_was_read(file: Path) -> None:
    document = read_json(file, repair="")
    for bench in read_files([file]).benches if document.get("kind") == "bench" else ():
        assert json.loads(json.dumps(bench.to_json())) == document


@pytest.mark.parametrize("file", OVERLAPS, ids=lambda file: file.name)
def test_the_next_run_can_be_appended_to_a_recorded_overlap(file: Path) -> None:
    document = read_json(file, repair="")
    common = {name: document[name] for name in document.keys() - {"kind", "schema", "runs"}}
    runs = overlap.recorded_runs(file, common)
    assert len(runs) >= 1
    assert [run["created"] for run in runs] == sorted(run["created"] for run in runs)
    for run in runs:
        runner, machine = run["runner"], run["machine"]
        own = {**runner, **machine, "batch": run["batch"]}
        assert {name: own[name] for name in common} == common
        shares = overlap.shares(run["pictures_per_s"])  # recorded to seven digits
        assert run["share_of_the_slower_stage"] == pytest.approx(shares, rel=1e-5)


def test_no_recorded_list_of_flips_is_longer_than_one_is_written() -> None:
    documents = [read_json(file, repair="") for file in FILES]
    comparisons = [document for document in documents if document.get("kind") == "parity"]
    results = [result for document in comparisons for result in document["results"]]
    lengths = [len(result["flip_list"]) for result in results]
    assert 0 < max(lengths) <= MAX_LISTED_FLIPS
    for result, length in zip(results, lengths, strict=True):
        assert result["flip_list_complete"] == (length == result["flips"])


def test_the_page_of_the_gpu_scripts_names_each() -> None:
    page = (BENCHMARKS / "gpu" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    scripts = [
        file.name for file in (BENCHMARKS / "gpu").iterdir() if file.suffix in {".py", ".sh"}
    ]
    assert sorted(named) == sorted(scripts)
