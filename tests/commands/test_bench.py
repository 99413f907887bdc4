"""``bench`` as typed: scenarios, stages, the regression gate, and each bad input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.cold_start import ColdStartPlan
from fcn_deploy.bench.measure import BenchPlan
from fcn_deploy.commands.bench import _announcement
from fcn_deploy.commands.bench import bench as bench_command
from fcn_deploy.commands.bench_options import BenchOptions
from fcn_deploy.commands.shared.cold_starts import cold_starts
from fcn_deploy.commands.shared.options import typed_names, typed_options
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.conditions import ColdStart
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.baseline import BaselineRunner
from fcn_deploy.runners.ort.runner import OrtRunner
from tests.command_line import FcnDeploy, refused
from tests.fakes import FakeRunner
from tests.result_files import BASELINE, FAST, bench_document

QUICK = ("--size", "64x96", "--repeats", "3", "--seconds", "0.05", "--threads", "1")
#: As quick, with repeats enough for a verdict.
DECISIVE = ("--size", "64x96", "--repeats", "5", "--seconds", "0.02", "--threads", "1")
#: As short as can be, without a verdict.
BRIEF = (
    "--backend", "ort", "--no-cold-start", "--size", "32x32", "--seconds", "0.01",
    "--repeats", "3",
)  # fmt: skip
ORT = ("--backend", "ort", "--no-cold-start")
CLOCKS = ("auto", "loadgen", "loop")
needs_loadgen = pytest.mark.skipif(
    loadgen.unavailable_reason() is not None, reason="LoadGen has no wheel for this Python"
)


@pytest.fixture
def exported(tiny_run: Path, tiny_baseline: Path, tmp_path: Path) -> Path:
    """A run with its plain export, which `bench` would make on the spot."""
    for file in (tiny_run / "model.safetensors", tiny_run / "model.onnx", tiny_baseline):
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


Measured = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def measured(fcn_deploy: FcnDeploy, exported: Path) -> Measured:
    """Measure ONNX Runtime; gives what was printed, as one line, and the result."""

    def bench(*words: str) -> tuple[str, dict[str, Any]]:
        done = fcn_deploy("bench", ".", *ORT, *QUICK, *words, "--json", "b.json").succeeded()
        return " ".join(done.out.split()), read_json(exported / "b.json", "")

    return bench


@pytest.mark.slow
@needs_loadgen
def test_every_row_has_loadgen_s_verdict_and_stages_that_add_up(measured: Measured) -> None:
    words = ("--scenario", "single-stream", "--tier", "end-to-end", "--backend", "torch")
    rows = measured(*words)[1]["rows"]
    assert {row["runner"]["backend"] for row in rows} == {"baseline", "torch", "ort"}
    for row in rows:
        assert row["loadgen"]["valid"]
        assert sum(row["stages_ms"].values()) == pytest.approx(row["wall_ms"], rel=0.05)


def test_the_plain_loop_is_marked_as_such(measured: Measured) -> None:
    said, document = measured("--clock", "loop")
    assert "timed by a plain loop, not by MLPerf LoadGen: asked for" in said
    clock = document["clock"]
    assert (clock["name"], clock["reason"], clock["seconds"]) == ("timed loop", "asked for", 0.05)
    assert sorted(document["options"]) == sorted([*ORT, *QUICK, "--clock", "loop"])
    assert all(row["loadgen"] is None for row in document["rows"])


def test_without_loadgen_the_loop_runs_and_says_why(
    fcn_deploy: FcnDeploy, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loadgen, "unavailable_reason", lambda: "no wheel here")
    assert "not by MLPerf LoadGen: no wheel here" in measured("--tier", "host")[0]
    refused(fcn_deploy("bench", ".", *ORT, "--clock", "loadgen"), "no wheel", "--clock loop")
    refused(fcn_deploy("bench", ".", *ORT, "--scenario", "offline"), "no wheel", "single-stream")


@pytest.mark.slow
def test_a_cold_start_of_every_backend(fcn_deploy: FcnDeploy, exported: Path) -> None:
    words = ("--clock", "loop", "--tier", "host", "--json", "b.json")
    finished = fcn_deploy("bench", ".", *QUICK, *words).succeeded()
    assert "cold start, ms" in finished.out
    document = json.loads((exported / "b.json").read_text())
    started = document["cold_starts"]
    backends = [entry["runner"]["backend"] for entry in started]
    assert {"baseline", "torch", "ort"} <= set(backends)
    assert backends == [row["runner"]["backend"] for row in document["rows"]]
    for entry in started:
        assert entry["error"] is None
        assert entry["cold_start_ms"] >= entry["first_run_ms"] > 0
        assert entry["peak_rss_mib"] > 0


def test_a_cold_start_opens_the_file_not_what_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ColdStartPlan] = []

    def measure(plan: ColdStartPlan) -> ColdStart:
        asked.append(plan)
        return ColdStart(plan.runner, plan.size, plan.largest)

    monkeypatch.setattr("fcn_deploy.bench.cold_start.measure_cold_start", measure)
    # On every CPU: a backend that computes a float32 file in bfloat16.
    rounding = FakeRunner(backend="openvino-bf16", precision=Precision.BF16)
    half = FakeRunner(backend="ort-cuda", precision=Precision.FP16)
    files = {rounding: Precision.FP32, half: Precision.FP16}
    found = cold_starts(Run(tmp_path), files, "auto", 1, (1, 4), ((32, 48), (64, 48)))
    assert [(plan.runner.backend, plan.precision) for plan in asked] == [
        ("openvino-bf16", Precision.FP32), ("ort-cuda", Precision.FP16),
    ]  # fmt: skip
    assert [start.runner.precision for start in found] == ["bf16", "fp16"]
    assert {(*start.size, *start.largest) for start in found} == {(32, 48, 4, 64, 48)}


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["--fp16", "--backend", "ort", "--backend", "torch", "--batch", "1,8", "--trust"],
        ["--int8", "--size", "320x480", "--size", "64x96", "--no-cold-start", "--seconds", "0.125"],
        ["--scenario", "server", "--target-p99-ms", "12.5", "--device", "cpu", "--images", "a b"],
    ],
)
def test_options_are_kept_as_they_were_typed(typed: list[str]) -> None:
    def parsed(words: list[str]) -> tuple[list[str], dict[str, Any]]:
        with bench_command.make_context("bench", ["my run", *words]) as context:
            again = typed_options(but=("json_file",))
            return again, {name: context.params[name] for name in context.params}

    words, meant = parsed([*typed, "--json", "b.json"])
    assert sorted(words) == sorted(typed)
    assert parsed([*words, "--json", "b.json"]) == (words, meant)


@pytest.mark.slow
def test_the_gate_finds_thirty_percent(
    fcn_deploy: FcnDeploy, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a clock that the runners alone move: how fast this machine is decides nothing.
    now, takes = [0.0], {BaselineRunner: 0.005, OrtRunner: 0.004}
    monkeypatch.setattr("fcn_deploy.bench.case.time.perf_counter", lambda: now[0])
    for kind in takes:

        def infer(
            self: Runner, images: NDArray[np.uint8], kind: Any = kind, real: Any = kind._infer
        ) -> Outputs:
            now[0] += takes[kind]
            outputs: Outputs = real(self, images)
            return outputs

        monkeypatch.setattr(kind, "_infer", infer)
    words = ("bench", ".", *ORT, *DECISIVE, "--clock", "loop", "--tier", "host")
    fcn_deploy(*words, "--json", "old.json").succeeded()
    again = fcn_deploy(*words, "--compare", "old.json").succeeded()
    assert "no rows are more than 10% slower" in again.out
    takes[OrtRunner] *= 1.3
    slower = fcn_deploy(*words, "--compare", "old.json").failed()
    assert "SLOWER: ort fp32" in slower.out
    fcn_deploy(*words, "--compare", "old.json", "--max-slowdown", "40%").succeeded()

    def out_of_memory(_self: Runner, _images: NDArray[np.uint8]) -> Outputs:
        raise BackendError("out of memory")

    monkeypatch.setattr(OrtRunner, "_infer", out_of_memory)
    lost = fcn_deploy(*words, "--compare", "old.json").failed()
    assert "LOST: ort fp32 host, batch 1" in lost.out


@pytest.mark.slow
def test_one_picture_eight_times_is_said(measured: Measured, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32), (9, 99, 199)).save(tmp_path / "one.png")
    said, document = measured("--images", "one.png")
    assert "warning: all inputs of a size are the same picture" in said
    assert document["inputs"]["distinct"] == 1


def test_what_is_compared_with_is_not_replaced(fcn_deploy: FcnDeploy, exported: Path) -> None:
    old = exported / "old.json"
    write_json(old, bench_document(BASELINE, FAST))
    before = old.read_bytes()
    words = ("bench", ".", *ORT, *DECISIVE, "--compare", "old.json", "--json", "old.json")
    refused(fcn_deploy(*words), "--json")
    assert old.read_bytes() == before


def test_a_quick_look_is_short_and_calls_no_row_faster(
    fcn_deploy: FcnDeploy, exported: Path
) -> None:
    words = ("--backend", "ort", "--size", "64x96", "--threads", "1", "--seconds", "0.02")
    finished = fcn_deploy("bench", ".", *words, "--quick", "--order-seed", "17").succeeded()
    said = " ".join(finished.out.split())
    assert "4 rows × 3 interleaved repeats: about 10 seconds (a quick look; with 3 repeats" in said
    assert "by a plain loop, not by MLPerf LoadGen: a quick look" in said
    assert "3 repeats: too few repeats for a verdict (at least 5)." in said
    (file,) = (exported / "bench").iterdir()
    assert "quick" in file.name
    document = json.loads(file.read_text())
    assert document["clock"]["seconds"] == 0.02  # what is typed stands
    assert document["cold_starts"] == []
    assert document["order_seed"] == 17
    ratios = [row["speedup_over_baseline"] for row in document["rows"]]
    assert [ratio["interval"] for ratio in ratios] == [None] * 4
    # Nothing can be compared with it, and that is said before anything is measured.
    words = (*ORT, "--compare", str(file))
    refused(fcn_deploy("bench", ".", *words), "3 repeats are too few", "--repeats 5")
    refused(fcn_deploy("bench", ".", *words, "--quick"), "too few repeats", "--repeats 5")


def _parsed(*words: str) -> tuple[BenchOptions, frozenset[str]]:
    with bench_command.make_context("bench", list(words)) as context:
        options, typed = BenchOptions(**context.params), typed_names()
    return options.as_quick_look(typed) if options.quick else options, typed


def test_a_typed_clock_stands_in_the_name_of_the_file(tmp_path: Path) -> None:
    def name(*words: str) -> str:
        options, typed = _parsed(*words)
        return options.result_file(Run(tmp_path), typed).name

    assert name("--clock", "loop") == "all.fp32.320x480.b1.loop.json"
    assert name("--int8", "--fp32") == "all.fp32-int8.320x480.b1.json"
    asked = [("--quick",), (), *((*q, "--clock", c) for q in [("--quick",), ()] for c in CLOCKS)]
    assert len({name(*words) for words in asked}) == len(asked) == 8


@pytest.mark.parametrize("look", ["--quick", "--no-cold-start"])
@pytest.mark.parametrize(("repeats", "verdict"), [(3, False), (4, False), (5, True), (7, True)])
def test_no_verdict_is_announced_by_the_repeats(
    monkeypatch: pytest.MonkeyPatch, look: str, repeats: int, verdict: bool
) -> None:
    monkeypatch.setattr("fcn_deploy.bench.duration.duration_sentence", lambda *_: "not long")
    options, _ = _parsed(look, "--repeats", str(repeats))
    said = _announcement(options, cast(BenchPlan, None))
    assert ("no row is called faster" not in said) == verdict


def test_rows_of_two_precisions_take_turns_and_what_is_said_twice_is_measured_once(
    measured: Measured, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "model.fp16.onnx").symlink_to(tiny_run / "model.fp16.onnx")
    words = ("--backend", "ort", "--batch", "1,1", "--fp32", "--fp16")
    _, document = measured(*words, "--tier", "host", "--clock", "loop")
    made = [(row["runner"]["backend"], row["runner"]["precision"]) for row in document["rows"]]
    assert made == [("baseline", "fp32"), ("ort", "fp32"), ("ort", "fp16")]
    assert len({row["inputs_digest"] for row in document["rows"]}) == 1


def test_a_result_of_another_machine_is_refused(fcn_deploy: FcnDeploy, exported: Path) -> None:
    document = bench_document(BASELINE, FAST)
    document["machine"] |= {"cpu": "Zilog Z80"}
    write_json(exported / "old.json", document)
    words = ("bench", ".", *ORT, *QUICK, "--compare", "old.json", "--json", "new.json")
    refused(fcn_deploy(*words), "another machine", "Zilog Z80")
    assert not (exported / "new.json").exists()  # before the minutes are spent


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--scenario", "server"], ["--target-p99-ms 100"]),
        (["--target-p99-ms", "100"], ["--scenario server"]),
        (["--scenario", "offline", "--clock", "loop"], ["drop --clock loop"]),
        (["--tier", "device", "--clock", "loop"], ["no backend has the tier device"]),
        (["--tier", "guest"], ["device", "end-to-end"]),
        (["--scenario", "multi-stream"], ["single-stream"]),
        (["--compare", "nowhere.json"], ["nowhere.json"]),
        (["--max-slowdown", "much"], ["10%"]),
    ],
)
def test_bad_input(
    fcn_deploy: FcnDeploy, exported: Path, words: list[str], expected: list[str]
) -> None:
    refused(fcn_deploy("bench", ".", *ORT, *QUICK, *words), *expected)
    assert not (exported / "bench").exists() or not list((exported / "bench").iterdir())


@pytest.mark.slow
def test_a_damaged_baseline_is_made_anew(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "model.onnx"):
        (tmp_path / name).symlink_to(tiny_run / name)
    (tmp_path / "baseline.onnx").write_bytes(b"half a fi")
    assert "plain export" in fcn_deploy("bench", ".", *BRIEF).succeeded().out


def test_no_baseline_without_pytorch_is_said(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fcn_deploy: FcnDeploy
) -> None:
    (tmp_path / "model.onnx").symlink_to(tiny_run / "model.onnx")
    monkeypatch.setattr("fcn_deploy.networks.device._import_error", ImportError("no torch"))
    finished = fcn_deploy("bench", ".", *BRIEF, "--tier", "host", "--clock", "loop").succeeded()
    assert "baseline is left out" in finished.out
    assert "no baseline" in finished.out
    refused(fcn_deploy("export", "."), "fcn-deploy train")
    refused(fcn_deploy("parity", ".", "--backend", "ort", "--data", "synthetic"), "PyTorch")
