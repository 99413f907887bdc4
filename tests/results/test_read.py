"""Result files, read back from documents that the real rooms made, whole and damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError, InputError, MissingStageError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results import bench as bench_results
from fcn_deploy.results import read
from fcn_deploy.results.read import SCHEMAS, read_files, read_results
from tests.result_files import (
    BASELINE,
    FAST,
    AddParity,
    bench_document,
    bisect_document,
    described,
    metrics,
    rich_bench_document,
)


def test_schemas_are_those_of_the_rooms_that_write() -> None:
    script = Path(read.__file__).parents[2] / "benchmarks" / "gpu" / "device_tier.py"
    (device_schema,) = re.findall(r"^DEVICE_SCHEMA = (\d+)$", script.read_text(), re.MULTILINE)
    assert {
        "device": int(device_schema),
    }.items() <= SCHEMAS.items()


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


def spoil(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split("/")
    place: Any = document
    for name in parents:
        place = place[int(name) if name.isdigit() else name]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "bench", "is not a train result"),
        ("schema", 1, "has schema 1, this version reads 2"),
        ("schema", True, "has schema True"),
        ("created", KeyError, "created is missing"),
        ("machine", [], "machine is not an object"),
        ("epochs", [], "epochs is not a list of at least one epoch"),
        ("epochs", [1], "epochs is not a list of objects"),
        ("epochs/0/loss", "low", "epochs[0].loss is not a number"),
        ("epochs/2/val_iou", [0.1], "epochs[2].val_iou is not one number for each of 5 classes"),
        ("epochs/2/val_iou", ["x"] * 5, "epochs[2].val_iou is not a list of numbers"),
        ("data/train/read", -1, "data.train.read is not a whole number"),
        ("data/train/read", True, "data.train.read is not a whole number"),
        ("class_names", [1], "class_names is not a list of texts"),
    ],
)
def test_damaged_training_figures(
    run: Run, path: str, value: Any, said: str, one_line: Callable[[Exception], str]
) -> None:
    write_json(run.metrics, spoil(metrics(), path, value))
    with pytest.raises(ArtifactError) as caught:
        read_results(run)
    line = one_line(caught.value)
    assert str(run.metrics) in line
    assert said in line
    assert "fcn-deploy train" in line


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("results", KeyError, "results is missing"),
        ("results/0/checks", [], "results[0].checks is not a list of at least one check"),
        ("results/0/candidate/threads", "2", "results[0].candidate.threads is not a whole"),
        ("results/0/agreement", None, "results[0].agreement is not a number"),
        ("results/0/passed", "yes", "results[0].passed is not true or false"),
        ("results/0/passed", True, "results[0].passed is not what its checks say"),
        ("results/0/images/odd_sizes", [[1]], "images.odd_sizes is not a list of sizes"),
        ("results/0/images/odd_sizes", [[1, True]], "images.odd_sizes is not a list of sizes"),
        ("results/0/gate", KeyError, "results[0].gate is missing"),
        ("results/0/flip_list/0/candidate_class", 5, "flip_list[0].candidate_class is not a whole"),
        ("results/0/batch/flips", -1, "results[0].batch.flips is not a whole number"),
        ("results/0/scores/classes/0/name", 1, "scores.classes[0].name is not text"),
        ("schema", 2, "has schema 2, this version reads 3"),
        ("results/0/palette", [[0, 0, 0]], "results[0].palette is not a list of 5 colours"),
        ("results/0/palette", [[0, 0, 256]] * 5, "results[0].palette is not a list of 5 colours"),
        ("results/0/palette", [[0, 0, True]] * 5, "results[0].palette is not a list of 5 col"),
        ("results/0/palette", ["red"] * 5, "results[0].palette is not a list of 5 colours"),
        ("results/0/flips_by_class/0/candidate", 5, "flips_by_class[0].candidate is not a whole"),
        ("results/0/flips_by_margin/0/flips", None, "flips_by_margin[0].flips is not a whole"),
        ("results/0/flips_by_distance/0/from_px", "1", "flips_by_distance[0].from_px is not a"),
        ("results/0/diagnosis", "BGR", "results[0].diagnosis is not a list"),
        ("results/0/pictures/0/views/margin", KeyError, "views.margin is missing"),
        ("results/0/pictures/0/margin_scale/colours", ["url(x)"], "colours is not a list of col"),
        ("reference_machine", "another", "reference_machine is not an object"),
    ],
)
def test_damaged_parity(run: Run, add_parity: AddParity, path: str, value: Any, said: str) -> None:
    add_parity(run, "swapped")
    file = run.parity_folder / "swapped.json"
    write_json(file, spoil(json.loads(file.read_text()), path, value))
    with pytest.raises(ArtifactError, match="fcn-deploy parity") as caught:
        read_results(run)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.com/a.png",
        "file:///etc/passwd",
        "/etc/passwd",
        "../../secret.png",
        "data:text/html;base64,PGI+",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png,raw",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,aGVsbG8=",
        'data:image/png;base64,aGVsbG8="><script>alert(1)</script>',
        7,
    ],
)
def test_only_pictures_ride_inside_a_parity_file(run: Run, add_parity: AddParity, uri: Any) -> None:
    add_parity(run, "swapped")
    file = run.parity_folder / "swapped.json"
    write_json(file, spoil(json.loads(file.read_text()), "results/0/pictures/0/views/flips", uri))
    with pytest.raises(ArtifactError, match=r"damaged: .*views\.flips is not") as caught:
        read_results(run)
    assert "script" not in str(caught.value)


def test_a_picture_cut_short_is_damaged(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "swapped")
    file = run.parity_folder / "swapped.json"
    document = json.loads(file.read_text())
    views = document["results"][0]["pictures"][0]["views"]
    views["flips"] = views["flips"][: len(views["flips"]) // 8 * 4]
    write_json(file, document)
    with pytest.raises(ArtifactError, match=r"views\.flips is not a PNG or JPEG"):
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


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rows/1/median_ms", 0, "rows[1].median_ms is not a number above 0"),
        ("rows/1/median_ms", 10**400, "rows[1].median_ms is not a number above 0"),
        ("rows/1/spread_ms", [1], "rows[1].spread_ms is not a list of 2 numbers"),
        ("rows/1/latency_ms/p90", None, "rows[1].latency_ms.p90 is not a number"),
        ("rows/1/speedup_over_baseline/tie", KeyError, "speedup_over_baseline.tie is missing"),
        ("rows/1/cdf_ms", [1.0, 2.0], "rows[1].cdf_ms is not a list of 101 numbers"),
        ("rows/1/stages_ms/write", KeyError, "rows[1].stages_ms.write is missing"),
        ("rows/1/scenario", None, "rows[1].scenario is not text"),
        ("rows/1/loadgen", KeyError, "rows[1].loadgen is missing"),
        ("rows/1/cv", None, "rows[1].cv is not a number"),
        ("clock", KeyError, "clock is missing"),
        ("conditions/warnings", [1], "conditions.warnings is not a list of texts"),
        ("conditions/gpu_before", [1], "conditions.gpu_before is not a list of objects"),
        ("cold_starts", None, "cold_starts is not a list"),
        ("options", KeyError, "options is missing"),
        ("masks", KeyError, "masks is missing"),
        ("references", None, "references is not a list"),
        ("conditions/others_share", KeyError, "conditions.others_share is missing"),
        ("schema", 2, "has schema 2, this version reads 3"),
        ("rows/1/runner", KeyError, "rows[1].runner is missing"),
    ],
)
def test_damaged_bench(run: Run, path: str, value: Any, said: str) -> None:
    file = run.bench_folder / "b.json"
    write_json(file, spoil(bench_document(BASELINE, FAST), path, value))
    with pytest.raises(ArtifactError, match="fcn-deploy bench") as caught:
        read_results(run)
    assert said.replace(" above 0", "") in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "null", "[" * 100_000])
def test_files_that_are_no_json_object(run: Run, content: str) -> None:
    run.bench_folder.mkdir(parents=True)
    file = run.bench_folder / "b.json"
    file.write_text(content)
    with pytest.raises(ArtifactError, match="fcn-deploy bench") as caught:
        read_results(run)
    assert str(file) in str(caught.value)


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


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("layers", [], "layers is not a list of at least one layer"),
        ("layers/3/shape", [1, "x"], "layers[3].shape is not a list of whole numbers"),
        ("layers/3/beyond", None, "layers[3].beyond is not true or false"),
        ("tolerance", 0, "tolerance is not a number above 0"),
        ("candidate/file", KeyError, "candidate.file is missing"),
    ],
)
def test_damaged_bisections(run: Run, path: str, value: Any, said: str) -> None:
    file = run.bisect_folder / "b.json"
    write_json(file, spoil(bisect_document(), path, value))
    with pytest.raises(ArtifactError, match=r"fcn-deploy parity .*--bisect") as caught:
        read_results(run)
    assert said in str(caught.value)


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
    ("content", "said"),
    [
        ({"schema": 1, "kind": "outputs"}, "run `fcn-deploy parity"),
        ({"schema": 1, "kind": "recipe"}, "is not a result of fcn-deploy"),
        ({"schema": 1, "kind": ["bench"]}, "is not a result of fcn-deploy"),
        ({"schema": 1, "kind": "bench"}, "has schema 1, this version reads 3"),
        ([], "is not a result of fcn-deploy"),
    ],
)
def test_files_that_hold_no_result(
    tmp_path: Path, content: Any, said: str, one_line: Callable[[Exception], str]
) -> None:
    file = tmp_path / "a.json"
    write_json(file, content)
    with pytest.raises(ArtifactError) as caught:
        read_files([file])
    line = one_line(caught.value)
    assert str(file) in line
    assert said.replace("run `fcn-deploy parity", "`fcn-deploy parity REF.json CAND.json`") in line


def test_missing_files_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere\.json"):
        read_files([tmp_path / "nowhere.json"])
    with pytest.raises(InputError):
        read_files([])


def test_machines_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for python in ("3.10.14", "3.11.7"):
        document = bench_document(BASELINE, FAST)
        document["machine"] |= {"cpu": "A CPU", "cores": 8, "python": python}
        paths.append(tmp_path / f"{python}.json")
        write_json(paths[-1], document)
    results = read_files(paths)
    assert results.several_machines
    labels = {results.machine_label(entry) for entry in results.environments}
    assert labels == {"A CPU, 8 cores, Python 3.10.14", "A CPU, 8 cores, Python 3.11.7"}


def test_a_newer_kernel_makes_no_other_machine(tmp_path: Path) -> None:
    paths = []
    for kernel in ("6.1", "6.18"):
        document = bench_document(BASELINE, FAST)
        document["machine"] |= {"system": f"Linux {kernel}"}
        paths.append(tmp_path / f"{kernel}.json")
        write_json(paths[-1], document)
    results = read_files(paths)
    assert not results.several_machines
    assert len({results.machine_label(entry) for entry in results.environments}) == 1
