"""``fcn-deploy parity``: saved outputs, words that do not go together, what is printed."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fcn_deploy.commands.parity import parity
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.spec import Precision
from fcn_deploy.parity import gate
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


def run(*words: object) -> Result:
    return CliRunner().invoke(parity, [str(word) for word in words])


def document(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.mark.slow
def test_outputs_saved_apart_give_the_result_of_a_live_comparison(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    reference, candidate = tmp_path / "here.json", tmp_path / "there" / "cand.json"
    saved = run(tiny_run, "--backend", "torch", "--images", pictures, "--save-outputs", reference)
    assert saved.exit_code == 0, saved.output
    assert "here.json and its folder, " in saved.output
    assert "MiB" in saved.output
    other = ("--backend", "ort", "--images", pictures)
    assert run(tiny_run, *other, "--save-outputs", candidate).exit_code == 0
    apart = run(reference, candidate)
    live = run(tiny_run, *other, "--json", tmp_path / "live.json")
    assert apart.exit_code == live.exit_code, (apart.output, live.output)
    together = document(tmp_path / "live.json")
    separately = document(tmp_path / "there" / "here-cand.parity.json")
    assert separately["reference_machine"] == separately["machine"] == together["machine"]
    (one,), (two,) = together["results"], separately["results"]
    assert one["images"] == two["images"]
    assert one["candidate"] == two["candidate"]
    assert {**one, "diagnosis": None} == {**two, "diagnosis": None}


@pytest.mark.slow
def test_saving_outputs_needs_no_torch(tiny_run: Path, pictures: Path, tmp_path: Path) -> None:
    words = [str(tiny_run), "--backend", "ort", "--images", str(pictures), "--save-outputs",
             str(tmp_path / "o.json")]  # fmt: skip
    done = run_without_torch("parity", *words)
    assert done.returncode == 0, done.stderr
    assert document(tmp_path / "o.json")["runner"]["backend"] == "ort"


@pytest.mark.slow
def test_a_comparison_holds_what_was_typed(tiny_run: Path, pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "live.json"
    options = ["--backend", "ort", "--backend", "torch", "--fp16", "--images", str(pictures),
               "--limit", "1", "--device", "cpu", "--threads", "1"]  # fmt: skip
    run(tiny_run, *options, "--json", target)
    typed = document(target)
    assert (typed["arguments"], typed["options"]) == ([str(tiny_run)], options)
    words = " ".join(map(str, [tiny_run, *options]))
    assert f"fcn-deploy parity {words}" in repeat_commands(read_files([target]))


def test_a_bisection_holds_what_was_typed(tiny_run: Path, pictures: Path, tmp_path: Path) -> None:
    target = tmp_path / "bisect.json"
    options = ["--fp16", "--images", str(pictures), "--limit", "1", "--bisect"]
    finished = run(tiny_run, *options, "--json", target)
    assert finished.exit_code == 0, finished.output
    typed = document(target)
    assert (typed["arguments"], typed["options"]) == ([str(tiny_run)], options)
    words = " ".join(map(str, [tiny_run, *options]))
    assert f"fcn-deploy parity {words}" in repeat_commands(read_files([target]))


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    record(as_candidate(FakeRunner()), listed(made_up()), tmp_path / "ref.json")
    swapped = FakeRunner(see=lambda images: images[..., ::-1])
    record(as_candidate(swapped), listed(made_up()), tmp_path / "swapped.json")
    return tmp_path / "ref.json", tmp_path / "swapped.json"


def test_a_failing_gate_says_why_and_where(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    finished = run(*recorded, "--json", tmp_path / "result.json")
    assert finished.exit_code == 1
    content = document(tmp_path / "result.json")["results"][0]
    assert not content["passed"]
    assert document(tmp_path / "result.json")["arguments"] == [str(path) for path in recorded]
    again = "fcn-deploy parity " + " ".join(map(str, recorded))
    assert again in repeat_commands(read_files([tmp_path / "result.json"]))
    told = " ".join(finished.output.split())
    assert "THE GATE FAILS" in told
    (sentence,) = content["diagnosis"]
    assert sentence in told
    assert "where the flips are" in told
    names = content["class_names"]
    for pair in content["flips_by_class"][:5]:
        assert f"{names[pair['reference']]} → {names[pair['candidate']]}" in told
    assert "1 px from a class edge" in told
    assert "margin 0 to " in told


def test_equal_outputs_pass_with_no_table_of_flips(tmp_path: Path) -> None:
    for name in ("a", "b"):
        record(as_candidate(FakeRunner()), listed(made_up(1)), tmp_path / f"{name}.json")
    finished = run(tmp_path / "a.json", tmp_path / "b.json")
    assert finished.exit_code == 0, finished.output
    assert "same masks (gate passed on 1 picture and odd sizes)" in finished.output
    assert "where the flips are" not in finished.output
    assert (tmp_path / "a-b.parity.json").is_file()


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
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(*words)
    assert finished.exit_code == 2
    assert said in " ".join(finished.output.split())
    assert list(tmp_path.iterdir()) == []


def test_a_result_does_not_replace_the_outputs_it_is_of(recorded: tuple[Path, Path]) -> None:
    before = recorded[1].read_bytes()
    finished = run(*recorded, "--json", recorded[1])
    assert "holds saved outputs" in str(finished.exception)
    assert recorded[1].read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--fp16"]])
def test_what_the_gate_leaves_open_is_said(
    options: list[str], tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    words = ("--backend", "ort", "--images", pictures, "--json", tmp_path / "out.json")
    finished = run(tiny_run, *words, *options)
    assert finished.exit_code == 0, finished.output
    told = " ".join(finished.output.split())
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
    opened: dict[str, FakeRunner], pictures: Path, tmp_path: Path
) -> None:
    words = ("--backend", "ncnn", "--backend", "ort", "--backend", "openvino")
    target = tmp_path / "all.json"
    finished = run(tmp_path, *words, "--images", pictures, "--json", target)
    assert finished.exit_code == 0, finished.output
    results = document(target)["results"]
    assert [result["candidate"]["backend"] for result in results] == ["ncnn", "ort", "openvino"]
    assert len(opened["torch"].shapes) == 2 + len(ODD_SIZES) + 1
    assert all(runner.closed for runner in opened.values())
    assert finished.output.index("ncnn fp32") < finished.output.index("ort fp32")


def test_a_candidate_that_fails_leaves_no_file_and_nothing_open(
    opened: dict[str, FakeRunner], pictures: Path, tmp_path: Path
) -> None:
    def breaks(_images: Any, _outputs: Any) -> Any:
        raise BackendError("out of memory", "use smaller pictures")

    opened["ort"] = FakeRunner(backend="ort", bug=breaks)
    words = ("--backend", "openvino", "--backend", "ort", "--images", pictures)
    finished = run(tmp_path, *words, "--json", tmp_path / "out" / "all.json")
    assert isinstance(finished.exception, BackendError)
    assert list(tmp_path.rglob("*.json")) == []
    assert opened["torch"].closed
    assert opened["openvino"].closed
    assert opened["ort"].closed


def test_a_failing_gate_is_exit_code_1(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fcn_deploy.core.spec import Precision

    impossible = gate.Gate(1.1, max_relative_epsilon=1.0, min_class_share=0, max_moved_share=1)
    monkeypatch.setitem(gate.GATES, Precision.FP32, impossible)
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "a.png")
    finished = fcn_deploy(
        "parity", tiny_run, "--backend", "ort", "--images", "a.png", "--json", "p.json"
    )
    assert finished.code == 1
    assert "THE GATE FAILS" in finished.out
    assert not json.loads((tmp_path / "p.json").read_text())["results"][0]["passed"]


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
    tiny_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OrtRunner, "stream", one_behind)
    words = ("--backend", "ort", "--images", pictures, "--json", tmp_path / "out.json")
    finished = run(tiny_run, *words)
    assert finished.exit_code == 1
    told = " ".join(finished.output.split())
    assert "the stream gives other masks than single runs" in told
    (result,) = document(tmp_path / "out.json")["results"]
    assert [c["name"] for c in result["checks"] if not c["passed"]] == ["stream"]
