"""``fcn-deploy ship``: the steps as typed, what is current is left alone, a failure ends it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

from fcn_deploy.commands import ship as ship_command
from fcn_deploy.commands.shared.steps import run_step
from fcn_deploy.commands.ship_steps import ShipOptions, Step, _fitting, ship_steps
from fcn_deploy.core.errors import UnfitNetworkError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.machine.description import utc_now
from fcn_deploy.parity.inputs import unlabelled_pictures
from fcn_deploy.runners.base import open_runner
from tests.command_line import FcnDeploy, refused
from tests.commands.quick_training import QUICK
from tests.predict.jobs import draw, draw_many
from tests.result_files import as_failed


def options(**typed: Any) -> ShipOptions:
    usual: dict[str, Any] = {
        "run": None, "target": "all", "fp16": False, "int8": False, "out": None, "count": 2,
        "data": None, "pictures": None, "limit": 2, "quick": True, "key": None,
        "public_key": None,
    }  # fmt: skip
    return ShipOptions(**(usual | typed))


def lines(source: Run, **typed: Any) -> list[str]:
    return [" ".join(step.words()) for step in ship_steps(source, options(**typed))]


def test_the_steps_are_commands_as_a_user_would_type_them(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert lines(run, int8=True, data="photos") == [
        f"export {tmp_path}",
        f"export {tmp_path} --int8",
        f"parity {tmp_path} --data photos --limit 2",
        f"parity {tmp_path} --int8 --data photos --limit 2",
        f"bench {tmp_path} --fp32 --int8 --tier end-to-end --no-cold-start --quick",
        f"bundle {tmp_path} --out {tmp_path.name}.fcnd.zip --images 2 --data photos",
        f"verify {tmp_path.name}.fcnd.zip --run --json {tmp_path}/verified.json --no-timing",
    ]


def test_a_target_names_its_backends(tmp_path: Path) -> None:
    run = Run(tmp_path)
    on_cpu = next(line for line in lines(run, target="cpu") if line.startswith("parity"))
    assert "--backend ort " in on_cpu
    assert "trt" not in on_cpu
    on_gpu = lines(run, target="trt", fp16=True)
    assert f"build {tmp_path} --fp16 --product trt" in on_gpu
    assert f"parity {tmp_path} --backend trt --fp16 --limit 2" in on_gpu


@pytest.fixture
def three_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Steps of which the second is current; what is run is recorded, and the third one fails."""
    ran: list[tuple[str, ...]] = []

    def steps(_source: Run, _options: ShipOptions) -> Iterator[Step]:
        yield Step(lambda: ("export", "r"), lambda: None)
        yield Step(lambda: ("parity", "r"), lambda: "the gate passed in p.json")
        yield Step(lambda: ("bench", "r"), lambda: None)
        yield Step(lambda: ("bundle", "r"), lambda: None)

    def run_step(words: tuple[str, ...]) -> int:
        ran.append(words)
        return 1 if words[0] == "bench" else 0

    monkeypatch.setattr(ship_command, "ship_steps", steps)
    monkeypatch.setattr(ship_command, "run_step", run_step)
    return ran


def test_it_stops_at_the_first_step_that_does_not_hold(
    fcn_deploy: FcnDeploy, tiny_run: Path, three_steps: list[tuple[str, ...]]
) -> None:
    finished = fcn_deploy("ship", tiny_run, "--data", "synthetic").failed()
    assert three_steps == [("export", "r"), ("bench", "r")]
    assert "current: parity; the gate passed in p.json" in finished.out
    assert "stopped: `fcn-deploy bench r` ended with exit code 1" in finished.out
    assert "can be handed over" not in finished.out


def test_what_it_tells_to_type_can_be_typed(
    fcn_deploy: FcnDeploy, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship_command, "ship_steps", lambda _source, _options: iter(()))
    done = fcn_deploy("ship", tiny_run, "--data", "synthetic", "--out", "a b.fcnd.zip")
    assert "`fcn-deploy verify 'a b.fcnd.zip' --run`" in done.out
    assert "(0 steps done, 0 were current)" in done.out


def test_bad_input_is_refused_before_anything_runs(
    fcn_deploy: FcnDeploy, tiny_run: Path, three_steps: list[tuple[str, ...]]
) -> None:
    refused(fcn_deploy("ship", "nowhere"), "no run nowhere", "fcn-deploy train")
    refused(fcn_deploy("ship", tiny_run / "model.onnx"), "is no run")
    refused(fcn_deploy("ship", tiny_run, "--data", "a", "--pictures", "b"), "exclude each other")
    refused(fcn_deploy("ship", tiny_run), "metrics.json", "--pictures DIR")
    typed = ("ship", tiny_run, "--data", "synthetic")
    refused(fcn_deploy(*typed, "--out", "x.zip"), "NAME.fcnd.zip")
    refused(fcn_deploy(*typed, "--key", "k.pub"), "no key k.pub")
    Path("k.pem").write_text("no key")
    refused(fcn_deploy(*typed, "--key", "k.pem"), "add --sign")
    unavailable = fcn_deploy(*typed, "--target", "trt")
    assert (unavailable.code, three_steps) == (2, []), unavailable.err
    refused(fcn_deploy(*typed, "--sign", "k.pem"), "k.pem is no private ECDSA key")
    assert three_steps == []


def test_a_path_is_never_taken_for_an_option() -> None:
    (line, *_) = lines(Run(Path("-x")), out=Path("-y.fcnd.zip"))
    assert line == "export ./-x"
    assert lines(Run(Path("-x")), out=Path("-y.fcnd.zip"))[-1].startswith("verify ./-y.fcnd.zip ")


def test_a_step_imports_nothing_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit(77)\n")
    monkeypatch.chdir(tmp_path)
    assert run_step(["--version"]) == 0


def test_a_step_ends_by_itself_when_ctrl_c_is_pressed(tmp_path: Path) -> None:
    """It may take a second to clean up: Ctrl-C goes to all processes of a terminal."""
    step = "import time\ntry:\n print('ready', flush=True); time.sleep(60)\n"
    step += "except KeyboardInterrupt:\n time.sleep(0.7); print('clean', flush=True)"
    program = (
        f"from fcn_deploy.commands.shared import steps; steps._PROGRAM = {step!r}; "
        "steps.run_step(['--version'])"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as ship:
        assert ship.stdout is not None
        assert b"ready\n" in iter(ship.stdout.readline, b"")
        os.killpg(ship.pid, signal.SIGINT)
        assert ship.stdout.read() == b"clean\n"
    assert ship.returncode != 0


def test_a_backend_that_cannot_compute_the_network_is_left_out(
    compared_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def opened(run: Run, backend: str) -> Any:
        if backend == "ncnn":
            raise UnfitNetworkError("no layer for ncnn")
        return open_runner(run, "ort")

    monkeypatch.setattr("fcn_deploy.runners.base.open_runner", opened)
    assert _fitting(compared_run, ("--backend", "ort", "--backend", "ncnn")) == ("--backend", "ort")
    assert "ncnn is left out: no layer" in capsys.readouterr().out


@pytest.fixture
def compared_run(tmp_path: Path, tiny_run: Path, compared: Path) -> Run:
    """A run whose gate passed on `ort`, by the words that `ship` would type."""
    run = Run(tmp_path / "run")
    shutil.copytree(tiny_run, run.root)
    with open_runner(run, "ort") as opened:
        runner = opened.describe()
    shown = unlabelled_pictures(draw_many(tmp_path / "pictures", 2))
    document = read_json(compared / "ort.json", "")
    (result,) = document["results"]
    result = {**result, "candidate": runner.to_json()}
    result["images"] = {**result["images"], "digest": shown.digest()}
    words = ["--backend", "ort", "--images", shown.source, "--limit", "2"]
    typed = {"options": words, "results": [result]}
    write_json(run.parity_folder / "ort.json", {**document, **typed})
    return run


def parity_step(run: Run) -> Step:
    pictures = run.root.parent / "pictures"
    steps = ship_steps(run, options(target="cpu", pictures=pictures))
    return next(step for step in steps if step.words()[0] == "parity")


@pytest.fixture
def only_ort(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ("--backend", "ort")
    monkeypatch.setattr("fcn_deploy.commands.ship_steps._backends", lambda target: found)


def test_a_gate_that_failed_since_is_asked_again(compared_run: Run, only_ort: None) -> None:
    assert parity_step(compared_run).current() == "the gate passed in parity/ort.json"
    failed = as_failed(read_json(compared_run.parity_folder / "ort.json", ""))
    later = {"created": utc_now(), "options": ["--images", "others"]}
    write_json(compared_run.parity_folder / "others.json", failed | later)
    assert parity_step(compared_run).current() is None


def test_a_model_file_that_has_changed_is_proven_again(compared_run: Run, only_ort: None) -> None:
    model = onnx.load(compared_run.onnx(Precision.FP32))
    model.producer_version = "changed"
    onnx.save(model, compared_run.onnx(Precision.FP32))
    assert parity_step(compared_run).current() is None


def test_pictures_that_have_changed_are_compared_on_again(
    compared_run: Run, only_ort: None, tmp_path: Path
) -> None:
    draw(tmp_path / "pictures" / "001.png", 7)
    assert parity_step(compared_run).current() is None


@pytest.mark.slow
def test_from_a_training_to_a_bundle_and_again(fcn_deploy: FcnDeploy, tmp_path: Path) -> None:
    fcn_deploy("scenes", "data", "--train", "4", "--val", "2", "--size", "96x128").succeeded()
    fcn_deploy("train", *QUICK, "--data", "data").succeeded()
    words = ("--limit", "1", "--images", "3", "--quick", "--target", "cpu")
    first = fcn_deploy("ship", *words).succeeded()
    assert "(5 steps done, 0 were current)" in first.out
    bundle = (tmp_path / "fcn.fcnd.zip").read_bytes()
    again = fcn_deploy("ship", *words).succeeded()
    assert "(0 steps done, 5 were current)" in again.out
    assert [line for line in again.out.splitlines() if line.startswith("$")] == []
    assert (tmp_path / "fcn.fcnd.zip").read_bytes() == bundle
    # A damaged bundle is made anew; it is the same again, so that it was verified.
    place = bundle.index(b"certificate/00000.png\x89PNG") + 100
    damaged = bundle[:place] + bytes([bundle[place] ^ 1]) + bundle[place + 1 :]
    (tmp_path / "fcn.fcnd.zip").write_bytes(damaged)
    mended = fcn_deploy("ship", *words)
    assert "(1 steps done, 4 were current)" in mended.out, mended.out
    # What is shipped is what is taken from now on, and why.
    scored = fcn_deploy("evaluate").succeeded()
    assert "same masks by parity/" in scored.out
    # A checkpoint that has changed makes all of it anew.
    fcn_deploy("train", *QUICK, "--data", "data", "--seed", "3", "--overwrite").succeeded()
    anew = fcn_deploy("ship", *words)
    assert "(5 steps done, 0 were current)" in anew.out, anew.out + anew.err
