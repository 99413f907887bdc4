"""``fcn-deploy parity``: saved outputs, words that do not go together, what is printed."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity.compare import compare
from fcn_deploy.parity.inputs import ODD_SIZES
from fcn_deploy.parity.saved_outputs import record
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.results.read import read_files
from fcn_deploy.runners.ort.runner import OrtRunner
from tests.candidates import as_candidate
from tests.command_line import FcnDeploy, refused, run_without_torch
from tests.conftest import WriteVocFolder
from tests.fakes import FakeRunner, one_behind
from tests.parity.comparisons import listed, made_up


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(3)
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    return folder


@pytest.mark.slow
def test_outputs_saved_apart_give_the_result_of_a_live_comparison(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path
) -> None:
    words = ("parity", tiny_run, "--images", pictures, "--backend")
    saved = fcn_deploy(*words, "torch", "--save-outputs", "here.json").succeeded()
    assert "here.json and its folder, " in saved.out
    assert "MiB" in saved.out
    fcn_deploy(*words, "ort", "--save-outputs", "there/cand.json").succeeded()
    apart = fcn_deploy("parity", "here.json", "there/cand.json")
    live = fcn_deploy(*words, "ort", "--json", "live.json")
    assert apart.code == live.code, (apart, live)
    together = read_json(Path("live.json"), "")
    separately = read_json(Path("there/here-cand.parity.json"), "")
    assert separately["reference_machine"] == separately["machine"] == together["machine"]
    (one,), (two,) = together["results"], separately["results"]
    assert one["images"] == two["images"]
    assert one["candidate"] == two["candidate"]
    assert {**one, "diagnosis": None} == {**two, "diagnosis": None}


@pytest.mark.slow
def test_saving_outputs_needs_no_torch(tiny_run: Path, pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "o.json"
    words = (tiny_run, "--backend", "ort", "--images", pictures, "--save-outputs", target)
    run_without_torch("parity", *words).succeeded()
    assert read_json(target, "")["runner"]["backend"] == "ort"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            ["--backend", "ort", "--backend", "torch", "--fp16", "--device", "cpu"],
            marks=pytest.mark.slow,
        ),
        ["--fp16", "--bisect"],
    ],
)
def test_a_result_holds_what_was_typed(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path, options: list[str]
) -> None:
    options = [*options, "--images", str(pictures), "--limit", "1"]
    assert fcn_deploy("parity", tiny_run, *options, "--json", "out.json").code in (0, 1)
    typed = read_json(Path("out.json"), "")
    assert (typed["arguments"], sorted(typed["options"])) == ([str(tiny_run)], sorted(options))
    words = " ".join([str(tiny_run), *typed["options"]])
    assert f"fcn-deploy parity {words}" in repeat_commands(read_files([Path("out.json")]))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    record(as_candidate(FakeRunner()), listed(made_up()), tmp_path / "ref.json")
    swapped = FakeRunner(see=lambda images: images[..., ::-1])
    record(as_candidate(swapped), listed(made_up()), tmp_path / "swapped.json")
    return tmp_path / "ref.json", tmp_path / "swapped.json"


def test_a_failing_gate_says_why_and_where(
    fcn_deploy: FcnDeploy, recorded: tuple[Path, Path]
) -> None:
    finished = fcn_deploy("parity", *recorded, "--json", "result.json").failed()
    document = read_json(Path("result.json"), "")
    (content,) = document["results"]
    assert not content["passed"]
    assert document["arguments"] == [str(path) for path in recorded]
    again = "fcn-deploy parity " + " ".join(map(str, recorded))
    assert again in repeat_commands(read_files([Path("result.json")]))
    told = " ".join(finished.out.split())
    assert "THE GATE FAILS" in told
    (sentence,) = content["diagnosis"]
    assert sentence in told
    assert "where the flips are" in told
    names = content["class_names"]
    for pair in content["flips_by_class"][:5]:
        assert f"{names[pair['reference']]} → {names[pair['candidate']]}" in told
    assert "1 px from a class edge" in told
    assert "margin 0 to " in told


def test_equal_outputs_pass_with_no_table_of_flips(fcn_deploy: FcnDeploy) -> None:
    for name in ("a", "b"):
        record(as_candidate(FakeRunner()), listed(made_up(1)), Path(f"{name}.json"))
    finished = fcn_deploy("parity", "a.json", "b.json").succeeded()
    assert "same masks (gate passed on 1 picture and odd sizes)" in finished.out
    assert "where the flips are" not in finished.out
    assert Path("a-b.parity.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/fcn", "c.json"], "give two such files"),
        (["r.json"], "give two such files"),
        (["r.json", "c.json", "d.json"], "give two such files"),
        (["runs/fcn", "runs/other"], "give one RUN"),
        (["r.json", "c.json", "--backend", "ort"], "--backend is of no use"),
        (["r.json", "c.json", "--fp16"], "--fp16 is of no use"),
        (["r.json", "c.json", "--limit", "3"], "--limit is of no use"),
        (["r.json", "c.json", "--save-outputs", "x.json"], "--save-outputs is of no use"),
        (["--save-outputs", "x.json"], "one --backend"),
        (["--save-outputs", "x.json", "--backend", "ort", "--backend", "torch"], "one --backend"),
        (["--save-outputs", "x.npz", "--backend", "ort"], "ending in .json"),
        (["--save-outputs", "x.json", "--backend", "ort", "--json", "y.json"], "drop --json"),
    ],
)
def test_words_that_do_not_go_together(
    fcn_deploy: FcnDeploy, words: list[str], said: str, tmp_path: Path
) -> None:
    refused(fcn_deploy("parity", *words), said)
    assert list(tmp_path.iterdir()) == []


def test_a_result_does_not_replace_the_outputs_it_is_of(
    fcn_deploy: FcnDeploy, recorded: tuple[Path, Path]
) -> None:
    before = recorded[1].read_bytes()
    refused(fcn_deploy("parity", *recorded, "--json", recorded[1]), "holds saved outputs")
    assert recorded[1].read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--fp16"]])
def test_what_the_gate_leaves_open_is_said(
    fcn_deploy: FcnDeploy, options: list[str], tiny_run: Path, pictures: Path
) -> None:
    words = ("--backend", "ort", "--images", pictures, "--json", "out.json")
    told = " ".join(fcn_deploy("parity", tiny_run, *words, *options).succeeded().out.split())
    assert "on 2 pictures and odd sizes, none labelled" in told
    limits = "; computed in float32 here: says nothing of a GPU's rounding)"
    assert (limits in told) is ("--fp16" in options)


def test_every_failure_has_a_reason() -> None:
    (result,) = compare(
        FakeRunner(),
        [as_candidate(FakeRunner(noise=1.0, precision=Precision.FP16))],
        listed(made_up()),
    )
    assert not result.passed
    assert result.diagnosis


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeRunner]:
    """Backend → the fake that the command is given for it."""
    fakes = {name: FakeRunner(backend=name) for name in ("torch", "ort", "openvino", "ncnn")}
    monkeypatch.setattr(
        "fcn_deploy.commands.parity.open_backend",
        lambda _source, backend, outputs, **_options: (
            fakes[backend] if "logits" in outputs else copy.copy(fakes[backend])
        ),
    )
    monkeypatch.setattr("fcn_deploy.commands.parity.require_backends", lambda _backends: None)
    return fakes


def test_all_candidates_are_compared_in_one_pass(
    fcn_deploy: FcnDeploy, opened: dict[str, FakeRunner], pictures: Path
) -> None:
    words = ("--backend", "ncnn", "--backend", "ort", "--backend", "openvino")
    finished = fcn_deploy("parity", ".", *words, "--images", pictures, "--json", "all.json")
    finished.succeeded()
    results = read_json(Path("all.json"), "")["results"]
    assert [result["candidate"]["backend"] for result in results] == ["ncnn", "ort", "openvino"]
    assert len(opened["torch"].shapes) == 2 + len(ODD_SIZES) + 1
    assert all(runner.closed for runner in opened.values())
    assert finished.out.index("ncnn fp32") < finished.out.index("ort fp32")


def test_a_candidate_that_fails_leaves_no_file_and_nothing_open(
    fcn_deploy: FcnDeploy, opened: dict[str, FakeRunner], pictures: Path, tmp_path: Path
) -> None:
    def breaks(_images: Any, _outputs: Any) -> Any:
        raise BackendError("out of memory", "use smaller pictures")

    opened["ort"] = FakeRunner(backend="ort", bug=breaks)
    words = ("--backend", "openvino", "--backend", "ort", "--images", pictures)
    refused(fcn_deploy("parity", ".", *words, "--json", "out/all.json"), "out of memory")
    assert list(tmp_path.rglob("*.json")) == []
    assert all(opened[name].closed for name in ("torch", "openvino", "ort"))


def test_parity_refuses_data_of_other_classes(
    fcn_deploy: FcnDeploy, tiny_run: Path, voc_folder: WriteVocFolder
) -> None:
    words = ["parity", tiny_run, "--backend", "ort", "--data"]
    refused(fcn_deploy(*words, voc_folder()), "8 classes", "the model 5 classes")


@pytest.mark.slow
def test_results_of_other_inputs_have_names_of_their_own(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(tiny_run / name, tmp_path)
    for folder in ("photos", "slides"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / folder / "a.png")
        fcn_deploy("parity", ".", "--backend", "ort", "--images", folder)
    names = sorted(path.name for path in (tmp_path / "parity").glob("*.json"))
    assert names == ["ort.fp32.photos.json", "ort.fp32.slides.json"]


def test_a_stream_of_a_real_backend_that_is_one_picture_behind(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtRunner, "stream", one_behind)
    words = ("--backend", "ort", "--images", pictures, "--json", "out.json")
    finished = fcn_deploy("parity", tiny_run, *words).failed()
    told = " ".join(finished.out.split())
    assert "THE GATE FAILS" in told
    assert "the stream gives other masks than single runs" in told
    (result,) = read_json(Path("out.json"), "")["results"]
    assert not result["passed"]
    assert [c["name"] for c in result["checks"] if not c["passed"]] == ["stream"]
