"""Result files, read back from documents that the package itself wrote."""

import json
from pathlib import Path

import pytest

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results import bench as bench_results
from fcn_deploy.results.read import read_files, read_results
from tests.result_files import (
    BASELINE,
    FAST,
    AddParity,
    bench_document,
    bisect_document,
    described,
    rich_bench_document,
)


def test_a_whole_run_is_read(full_run: Run) -> None:
    results = read_results(full_run)
    assert results.training is not None
    assert [split.dropped for split in results.training.splits] == [350, 0]
    assert results.training.val_iou == (0.9, 0.5, 0.25, 0.125, None)
    assert [comparison.passed for comparison in results.comparisons] == [True, False]
    assert [len(measured.rows) for measured in results.benches] == [4]
    assert len(results.environments) == 4
    # a reference and a candidate for each comparison, then the rows
    assert len(results.runners) == 2 * 2 + 4
    assert results.runners[-1].backend == "torch"
    assert results.preview == full_run.preview


def test_a_figure_of_another_checkpoint_is_stale(full_run: Run) -> None:
    assert not read_results(full_run).is_stale(described("ort"))
    full_run.checkpoint.write_bytes(b"trained again")
    assert read_results(full_run).is_stale(described("ort"))


def test_nothing_at_all_names_the_first_command(run: Run) -> None:
    with pytest.raises(MissingStageError, match=r"run `fcn-deploy train --out .*` first"):
        read_results(run)


def test_flips_and_pictures_are_read(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "swapped")
    (comparison,) = read_results(run).comparisons
    assert sum(pair.flips for pair in comparison.by_class) == comparison.flips
    assert sum(bucket.flips for bucket in comparison.by_distance) == comparison.flips
    assert comparison.by_distance[-1].high is None
    assert len(comparison.palette) == len(comparison.class_names)
    assert comparison.diagnosis
    assert read_results(run).parity_files[0].reference_machine is None
    picture = comparison.pictures[0]
    assert list(picture.views) == ["image", "reference", "candidate", "flips", "margin"]
    assert all(view.width == 96 for view in picture.views.values())
    assert picture.margin_scale.low < picture.margin_scale.high


def test_the_machine_of_a_saved_reference_is_read(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    file = run.parity_folder / "ort.json"
    elsewhere = {"cpu": "Another CPU", "cores": 64}
    write_json(file, json.loads(file.read_text()) | {"reference_machine": elsewhere})
    assert read_results(run).parity_files[0].reference_machine == "Another CPU, 64 cores"


def words_of(run: Run) -> list[tuple[tuple[str, ...] | None, tuple[str, ...] | None]]:
    results = read_results(run)
    return [
        *((file.arguments, file.options) for file in results.parity_files),
        *((file.arguments, file.options) for file in results.bisect_files),
    ]


def test_what_was_typed_is_read(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "ort")
    compared, bisected = run.parity_folder / "ort.json", run.bisect_folder / "b.json"
    write_json(bisected, bisect_document())
    assert words_of(run) == [(None, None)] * 2
    typed = {"arguments": ["runs/a"], "options": ["--limit", "3"]}
    write_json(compared, json.loads(compared.read_text()) | typed)
    write_json(bisected, bisect_document() | typed)
    assert words_of(run) == [(("runs/a",), ("--limit", "3"))] * 2
    for file in (compared, bisected):
        whole = json.loads(file.read_text())
        write_json(file, whole | {"options": ["--limit", 3]})
        with pytest.raises(ArtifactError, match="options is not a list of texts"):
            read_results(run)
        write_json(file, {name: value for name, value in whole.items() if name != "arguments"})
        with pytest.raises(ArtifactError, match="arguments is missing"):
            read_results(run)
        write_json(file, whole)


def test_a_file_that_is_being_written_is_left_alone(full_run: Run) -> None:
    (full_run.bench_folder / ".all.12ab.json").write_text("{")
    assert len(read_results(full_run).benches) == 1


def test_everything_of_a_bench_file_is_read(run: Run) -> None:
    write_json(run.bench_folder / "b.json", rich_bench_document())
    (measured,) = read_results(run).benches
    assert measured.clock == "loadgen"
    assert measured.conditions.gpu_after[1].throttle_reasons == ("power cap",)
    assert measured.conditions.steal_share == pytest.approx(0.0012)
    assert {start.largest for start in measured.cold_starts} == {(4, 320, 480)}
    assert [start.build_seconds for start in measured.cold_starts] == [None, None, 41.0]
    first = measured.rows[0]
    assert first.cdf_ms is not None
    assert len(first.cdf_ms) == 101
    assert first.stages_ms is not None
    assert sum(first.stages_ms.values()) < (first.wall_ms or 0)
    assert first.loadgen is not None
    assert first.loadgen.settings == bench_results.Settings(0.5, 64, 8)
    assert measured.options == ()
    bounds = {row.loadgen.target_p99_ms for row in measured.rows if row.loadgen}
    assert bounds == {None, 100.0}


def test_a_bisection_is_read(run: Run) -> None:
    write_json(run.bisect_folder / "b.json", bisect_document(layers=40, first=25))
    (bisection,) = read_results(run).bisections
    assert len(bisection.layers) == 40
    assert bisection.first is not None
    assert bisection.first.name == "/backbone/layer25/conv"
    assert bisection.tolerance == 1e-4


def test_saved_outputs_in_a_run_are_no_results(full_run: Run) -> None:
    write_json(full_run.parity_folder / "mine.json", {"schema": 1, "kind": "outputs"})
    assert len(read_results(full_run).comparisons) == 2


# -- files of several machines ------------------------------------------------------------------


def test_files_of_all_kinds_meet(full_run: Run, tmp_path: Path) -> None:
    write_json(tmp_path / "layers.json", bisect_document())
    paths = [
        full_run.metrics,
        full_run.parity_folder / "ort.json",
        full_run.bench_folder / "all.json",
        tmp_path / "layers.json",
    ]
    results = read_files(paths)
    assert results.name == "4 result files"
    assert results.files == tuple(map(str, paths))
    assert [entry.file for entry in results.environments] == [str(path) for path in paths]
    assert len(results.trainings) == len(results.comparisons) == len(results.benches) == 1
    assert not results.several_machines
    assert results.checkpoint_digest is None


def test_the_same_content_counts_once(full_run: Run, tmp_path: Path) -> None:
    one, other = full_run.bench_folder / "all.json", tmp_path / "copy.json"
    other.write_bytes(one.read_bytes())
    results = read_files([one, other, one])
    assert results.files == (str(one),)
    assert len(results.benches) == 1


@pytest.mark.parametrize(
    ("machines", "labels"),
    [
        (
            [{"python": "3.10.14"}, {"python": "3.11.7"}],
            {"A CPU, 8 cores, Python 3.10.14", "A CPU, 8 cores, Python 3.11.7"},
        ),
        ([{"system": "Linux 6.1"}, {"system": "Linux 6.18"}], {"A CPU, 8 cores"}),
    ],
)
def test_machines_of_one_name_are_told_apart_and_a_newer_kernel_makes_no_other(
    tmp_path: Path, machines: list[dict[str, str]], labels: set[str]
) -> None:
    paths = []
    for number, machine in enumerate(machines):
        document = bench_document(BASELINE, FAST)
        document["machine"] |= {"cpu": "A CPU", "cores": 8, **machine}
        paths.append(tmp_path / f"{number}.json")
        write_json(paths[-1], document)
    results = read_files(paths)
    assert results.several_machines is (len(labels) > 1)
    assert {results.machine_label(entry) for entry in results.environments} == labels
