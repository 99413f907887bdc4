"""Result files that are damaged or hold something else are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results.read import read_files, read_results
from tests.result_files import BASELINE, FAST, AddParity, bench_document, bisect_document, metrics


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
        ("results/0/candidate/precision", "fp8", "results[0].candidate.precision is not one of"),
        ("results/0/agreement", None, "results[0].agreement is not a number"),
        ("results/0/passed", "yes", "results[0].passed is not true or false"),
        ("results/0/passed", True, "results[0].passed is not what its checks say"),
        ("results/0/images/odd_sizes", [[1]], "images.odd_sizes is not a list of sizes"),
        ("results/0/images/odd_sizes", [[1, True]], "images.odd_sizes is not a list of sizes"),
        ("results/0/gate", KeyError, "results[0].gate is missing"),
        ("results/0/flip_list/0/candidate_class", 5, "flip_list[0].candidate_class is not a whole"),
        ("results/0/batches/0/flips", -1, "results[0].batches[0].flips is not a whole number"),
        ("results/0/scores/classes/0/name", 1, "scores.classes[0].name is not text"),
        ("schema", 3, "has schema 3, this version reads 4"),
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


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rows/1/median_ms", 0, "rows[1].median_ms is not a number above 0"),
        ("rows/1/median_ms", 10**400, "rows[1].median_ms is not a number above 0"),
        ("rows/1/spread_ms", [1], "rows[1].spread_ms is not a list of 2 numbers"),
        ("rows/1/latency_ms/p90", None, "rows[1].latency_ms.p90 is not a number"),
        ("rows/1/repeat_numbers", [0, 1], "rows[1].repeat_numbers is not a rising list as long as"),
        ("rows/1/repeat_numbers", [0, 1, 2, 4, 4, 5], "rows[1].repeat_numbers is not a rising"),
        ("rows/1/repeat_numbers", [0, 1, 2, 3, 4, -5], "rows[1].repeat_numbers is not a list of"),
        ("rows/1/speedup_over_baseline/interval", [2.1, 2.0], "interval is not two rising numbers"),
        ("rows/1/speedup_over_baseline/interval", [0.0, 2.0], "interval is not two rising numbers"),
        ("order_seed", KeyError, "order_seed is missing"),
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
        ("schema", 3, "has schema 3, this version reads 4"),
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"schema": 1, "kind": "outputs"}, "run `fcn-deploy parity"),
        ({"schema": 1, "kind": "recipe"}, "is not a result of fcn-deploy"),
        ({"schema": 1, "kind": ["bench"]}, "is not a result of fcn-deploy"),
        ({"schema": 1, "kind": "bench"}, "has schema 1, this version reads 4"),
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


def test_the_repair_of_another_schema_writes_the_same_file_again(
    run: Run, one_line: Callable[[Exception], str]
) -> None:
    options = ["--backend", "ort", "--images", "my images"]
    document = bench_document(BASELINE, FAST) | {"schema": 2, "options": options}
    write_json(run.bench_folder / "ort.json", document)
    with pytest.raises(ArtifactError) as caught:
        read_results(run)
    command = f"fcn-deploy bench {run.root} --backend ort --images 'my images'"
    assert f"run `{command}` again" in one_line(caught.value)
