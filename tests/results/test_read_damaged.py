"""Result files that are damaged or hold something else are refused in one line."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.files import read_json, write_json
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


def place(path: str) -> str:
    """How a field is called in what is said; of what a file is as a whole, no field is named."""
    if path in ("kind", "schema"):
        return ""
    return re.sub(r"/(\d+)", r"[\1]", path).replace("/", ".") + " "


Spoiled = Callable[[Path, dict[str, Any]], str]


@pytest.fixture
def spoiled(run: Run, one_line: Callable[[Exception], str]) -> Spoiled:
    """Write a document into the run, and return what is said of the file."""

    def refusal(file: Path, document: dict[str, Any]) -> str:
        write_json(file, document)
        with pytest.raises(ArtifactError) as caught:
            read_results(run)
        line = one_line(caught.value)
        assert str(file) in line
        return line

    return refusal


@pytest.fixture
def compared_file(run: Run, add_parity: AddParity) -> Path:
    add_parity(run, "swapped")
    return run.parity_folder / "swapped.json"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("kind", "bench", "is not a train result"),
        ("schema", 1, "has schema 1, this version reads 2"),
        ("schema", True, "has schema True"),
        ("created", KeyError, "is missing"),
        ("machine", [], "is not an object"),
        ("epochs", [], "is not a list of at least one epoch"),
        ("epochs", [1], "is not a list of objects"),
        ("epochs/0/loss", "low", "is not a number"),
        ("epochs/2/val_iou", [0.1], "is not one number for each of 5 classes"),
        ("epochs/2/val_iou", ["x"] * 5, "is not a list of numbers"),
        ("data/train/read", -1, "is not a whole number"),
        ("data/train/read", True, "is not a whole number"),
        ("class_names", [1], "is not a list of texts"),
    ],
)
def test_damaged_training_figures(
    run: Run, spoiled: Spoiled, path: str, value: Any, said: str
) -> None:
    line = spoiled(run.metrics, spoil(metrics(), path, value))
    assert place(path) + said in line
    assert "fcn-deploy train" in line


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("results", KeyError, "is missing"),
        ("results/0/checks", [], "is not a list of at least one check"),
        ("results/0/candidate/threads", "2", "is not a whole"),
        ("results/0/candidate/precision", "fp8", "is not one of"),
        ("results/0/agreement", None, "is not a number"),
        ("results/0/passed", "yes", "is not true or false"),
        ("results/0/passed", True, "is not what its checks say"),
        ("results/0/images/odd_sizes", [[1]], "is not a list of sizes"),
        ("results/0/images/odd_sizes", [[1, True]], "is not a list of sizes"),
        ("results/0/gate", KeyError, "is missing"),
        ("results/0/flip_list/0/candidate_class", 5, "is not a whole"),
        ("results/0/batches/0/flips", -1, "is not a whole number"),
        ("results/0/scores/classes/0/name", 1, "is not text"),
        ("schema", 3, "has schema 3, this version reads 4"),
        ("results/0/palette", [[0, 0, 0]], "is not a list of 5 colours"),
        ("results/0/palette", [[0, 0, 256]] * 5, "is not a list of 5 colours"),
        ("results/0/palette", [[0, 0, True]] * 5, "is not a list of 5 col"),
        ("results/0/palette", ["red"] * 5, "is not a list of 5 colours"),
        ("results/0/flips_by_class/0/candidate", 5, "is not a whole"),
        ("results/0/flips_by_margin/0/flips", None, "is not a whole"),
        ("results/0/flips_by_distance/0/from_px", "1", "is not a"),
        ("results/0/diagnosis", "BGR", "is not a list"),
        ("results/0/pictures/0/views/margin", KeyError, "is missing"),
        ("results/0/pictures/0/margin_scale/colours", ["url(x)"], "is not a list of col"),
        ("reference_machine", "another", "is not an object"),
    ],
)
def test_damaged_parity(
    compared_file: Path, spoiled: Spoiled, path: str, value: Any, said: str
) -> None:
    line = spoiled(compared_file, spoil(read_json(compared_file, ""), path, value))
    assert place(path) + said in line
    assert "fcn-deploy parity" in line


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
def test_only_pictures_ride_inside_a_parity_file(
    compared_file: Path, spoiled: Spoiled, uri: Any
) -> None:
    document = read_json(compared_file, "")
    line = spoiled(compared_file, spoil(document, "results/0/pictures/0/views/flips", uri))
    assert re.search(r"damaged: .*views\.flips is not", line)
    assert "script" not in line


def test_a_picture_cut_short_is_damaged(compared_file: Path, spoiled: Spoiled) -> None:
    document = read_json(compared_file, "")
    views = document["results"][0]["pictures"][0]["views"]
    views["flips"] = views["flips"][: len(views["flips"]) // 8 * 4]
    assert "views.flips is not a PNG or JPEG" in spoiled(compared_file, document)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("rows/1/median_ms", 0, "is not a number above 0"),
        ("rows/1/median_ms", 10**400, "is not a number"),
        ("rows/1/spread_ms", [1], "is not a list of 2 numbers"),
        ("rows/1/latency_ms/p90", None, "is not a number"),
        ("rows/1/repeat_numbers", [0, 1], "is not a rising list as long as"),
        ("rows/1/repeat_numbers", [0, 1, 2, 4, 4, 5], "is not a rising"),
        ("rows/1/repeat_numbers", [0, 1, 2, 3, 4, -5], "is not a list of"),
        ("rows/1/speedup_over_baseline/interval", [2.1, 2.0], "is not two rising numbers"),
        ("rows/1/speedup_over_baseline/interval", [0.0, 2.0], "is not two rising numbers"),
        ("order_seed", KeyError, "is missing"),
        ("rows/1/cdf_ms", [1.0, 2.0], "is not a list of 101 numbers"),
        ("rows/1/stages_ms/write", KeyError, "is missing"),
        ("rows/1/scenario", None, "is not text"),
        ("rows/1/loadgen", KeyError, "is missing"),
        ("rows/1/cv", None, "is not a number"),
        ("clock", KeyError, "is missing"),
        ("conditions/warnings", [1], "is not a list of texts"),
        ("conditions/gpu_before", [1], "is not a list of objects"),
        ("cold_starts", None, "is not a list"),
        ("options", KeyError, "is missing"),
        ("masks", KeyError, "is missing"),
        ("references", None, "is not a list"),
        ("conditions/others_share", KeyError, "is missing"),
        ("schema", 3, "has schema 3, this version reads 4"),
        ("rows/1/runner", KeyError, "is missing"),
    ],
)
def test_damaged_bench(run: Run, spoiled: Spoiled, path: str, value: Any, said: str) -> None:
    document = spoil(bench_document(BASELINE, FAST), path, value)
    line = spoiled(run.bench_folder / "b.json", document)
    assert place(path) + said in line
    assert "fcn-deploy bench" in line


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
        ("layers", [], "is not a list of at least one layer"),
        ("layers/3/shape", [1, "x"], "is not a list of whole numbers"),
        ("layers/3/beyond", None, "is not true or false"),
        ("tolerance", 0, "is not a number above 0"),
        ("candidate/file", KeyError, "is missing"),
    ],
)
def test_damaged_bisections(run: Run, spoiled: Spoiled, path: str, value: Any, said: str) -> None:
    line = spoiled(run.bisect_folder / "b.json", spoil(bisect_document(), path, value))
    assert place(path) + said in line
    assert re.search("fcn-deploy parity .*--bisect", line)


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
    run: Run, spoiled: Spoiled
) -> None:
    options = ["--backend", "ort", "--images", "my images"]
    document = bench_document(BASELINE, FAST) | {"schema": 2, "options": options}
    command = f"fcn-deploy bench {run.root} --backend ort --images 'my images'"
    assert f"run `{command}` again" in spoiled(run.bench_folder / "ort.json", document)
