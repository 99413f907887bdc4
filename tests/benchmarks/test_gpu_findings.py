"""What result files of each kind say on the page of GPU checks."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_page.page import NOT_MEASURED, page
from gpu_page.results import TURNS_SCHEMA, read_gpu_results

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.results import scenarios
from fcn_deploy.results.device import DeviceRow
from fcn_deploy.results.runner import GraphCounts
from tests.benchmarks.gpu_page_lines import DOCS, lines_of, result_of, results_of
from tests.benchmarks.gpu_result_files import (
    DAY,
    DAY_AFTER,
    H200,
    L4,
    device_row,
    gpu_row,
    on_gpu,
    timing,
    write_bench,
    write_device,
)
from tests.benchmarks.gpu_scripts import load_script
from tests.result_files import cold_start, metrics, sensor, verdict
from tests.tensorrt.engine_files import plan as plan  # a fixture
from tests.tensorrt.engine_files import sidecar_of, write_sidecar


class TestSpeed:
    def test_rows_of_an_engine(self, tmp_path: Path) -> None:
        write_bench(
            tmp_path / "one.json",
            gpu_row("trt", 1.0, 1.1, 1.2),
            gpu_row("trt", 2.0, scenario=scenarios.OFFLINE, batch_size=32),
            gpu_row("trt", 9.0, precision=Precision.INT8),
        )
        assert result_of(tmp_path, "`trt` FP16, single stream") == (
            "`trt` fp16: end-to-end, batch 1, 320×480: 1.10 ms [1.00–1.20]; offline, end-to-end, "
            "batch 32, 320×480: 16,000 images/s"
        )
        _gate, speed = results_of(tmp_path, "`trt` INT8")
        assert "9.00 ms" in speed

    def test_of_each_case_the_newest_file_is_shown(self, tmp_path: Path) -> None:
        both = [gpu_row("trt", 1.0), gpu_row("trt", 3.0, tier=scenarios.HOST)]
        write_bench(tmp_path / "old.json", *both)
        write_bench(tmp_path / "new.json", gpu_row("trt", 2.0), created=DAY_AFTER)
        anew, other = results_of(tmp_path, "`trt` FP16, single stream")
        assert anew.startswith("`trt` fp16: end-to-end, batch 1, 320×480: 2.00 ms [2.00–2.00] ([`n")
        assert other.startswith("`trt` fp16: host, batch 1, 320×480: 3.00 ms [3.00–3.00] ([`old")

    def test_an_engine_with_a_tournament_has_a_line_of_its_own(self, tmp_path: Path) -> None:
        write_bench(tmp_path / "early.json", gpu_row("trt", 1.0))
        row = gpu_row("trt", 2.0)
        row = replace(row, runner=replace(row.runner, tail="tournament"))
        write_bench(tmp_path / "other.json", row, created=DAY_AFTER)
        usual, other = results_of(tmp_path, "`trt` FP16, single stream")
        assert usual.startswith("`trt` fp16: end-to-end, batch 1, 320×480: 1.00 ms")
        assert other.startswith("`trt` fp16, tournament: end-to-end, batch 1, 320×480: 2.00 ms")

    def test_what_loadgen_calls_invalid_is_said(self, tmp_path: Path) -> None:
        bad = gpu_row("trt", 1.0, loadgen=verdict("too short"))
        write_bench(tmp_path / "one.json", bad)
        assert result_of(tmp_path, "`trt` FP16, single").endswith("(INVALID by LoadGen)")

    def test_others_and_the_plain_export_beside_them(self, tmp_path: Path) -> None:
        rows = [gpu_row(name, 5.0) for name in ("torch", "ort-cuda", "baseline-cuda")]
        write_bench(tmp_path / "others.json", *rows)
        found = results_of(tmp_path, "PyTorch, `ort-cuda` and the plain export")
        assert [result.split(":")[0] for result in found] == [
            "`ort-cuda` fp16", "`torch` fp16", "plain export"
        ]  # fmt: skip

    @pytest.mark.parametrize(("ms", "said"), [(1.0, "ahead of all; "), (9.0, "not ahead of all; ")])
    def test_ahead_of_all_others_of_its_own_run(self, tmp_path: Path, ms: float, said: str) -> None:
        of_32: dict[str, Any] = {"batch_size": 32, "scenario": scenarios.OFFLINE}
        rows = [gpu_row(name, 5.0, 5.1, 5.2, **of_32) for name in ("torch", "ort-cuda")]
        write_bench(tmp_path / "all.json", gpu_row("trt", ms, **of_32), *rows)
        result = result_of(tmp_path, "`trt` FP16 ahead of all others")
        assert result.startswith(said)
        assert "× `torch` fp16" in result

    def test_rows_of_two_files_give_no_ratio(self, tmp_path: Path) -> None:
        for name in ("trt", "torch"):
            write_bench(tmp_path / f"{name}.json", gpu_row(name, 5.0, batch_size=32))
        assert result_of(tmp_path, "`trt` FP16 ahead of all others") == NOT_MEASURED

    def test_turns_as_the_script_writes_them(self, tmp_path: Path) -> None:
        script = load_script("turns")
        assert script.TURNS_SCHEMA == TURNS_SCHEMA
        engine = write_device(tmp_path / "tier.json", device_row(32, 2.0))
        at_once: dict[str, Any] = {
            "batch_size": 32, "tier": scenarios.HOST, "scenario": scenarios.OFFLINE,
        }  # fmt: skip
        others = write_bench(
            tmp_path / "others.json",
            gpu_row("torch", 8.0, **at_once),
            gpu_row("baseline-cuda", 24.0, **at_once),
        )
        script.main([str(tmp_path / "turns.json"), str(engine), str(others)])
        # 6 ms from ordinary memory, and 2 / 0.74 from pinned.
        assert result_of(tmp_path, "`trt` FP16 from pinned and from ordinary memory, in") == (
            "pinned, 32×320×480: 2.96 × (2.96–2.96) `torch` fp16; "
            "host, 32×320×480: 1.33 × (1.33–1.33) `torch` fp16"
        )
        assert result_of(tmp_path, "`trt` FP16 at least 10 × the plain export") == (
            "pinned, 32×320×480: 8.88 × (8.88–8.88) MISSED; "
            "host, 32×320×480: 4.00 × (4.00–4.00) MISSED"
        )

    def test_clocks_and_cold_starts(self, tmp_path: Path) -> None:
        write_bench(
            tmp_path / "one.json",
            gpu_row("trt", 1.0, energy=0.8),
            sensors=(sensor(1980, "power cap"),),
            cold_starts=(cold_start(on_gpu("trt"), device_memory_mib=512.0),),
        )
        reading = "1,980 MHz, 41.0 °C, 95.5 W, held back by power cap"
        assert result_of(tmp_path, "clocks, temperature") == (
            f"{reading} → {reading}; `trt` fp16, end-to-end, batch 1, 320×480: 0.800 J/image"
        )
        assert result_of(tmp_path, "`trt` from its start") == (
            "`trt` fp16: 812 ms to the first mask, 512 MiB of the GPU's memory"
        )


class TestDevice:
    def test_what_a_device_file_tells(self, tmp_path: Path) -> None:
        write_device(tmp_path / "tier.json", device_row(1, 0.1), device_row(32, 2.0))
        assert result_of(tmp_path, "FP16 alone on the GPU") == (
            "1×320×480: 0.100 ms, 10,000 images/s; 32×320×480: 2.00 ms, 16,000 images/s"
        )
        assert result_of(tmp_path, "FP16 from pinned memory to") == (
            "1×320×480: 7,400 images/s, 74.0%; 32×320×480: 11,800 images/s, 74.0% (reached)"
        )
        assert "50.0 GB/s in, 48.0 GB/s out" in result_of(tmp_path, "the bus alone")
        assert "32×320×480: 6.00 ms, pinned 2.70 ms" in result_of(tmp_path, "FP16 from ordinary")
        assert "2.43 ms a batch, with one 2.70 ms" in result_of(tmp_path, "two engine contexts")
        assert (
            "1×320×480: 2 layers 0.110 ms, in one 0.100 ms; slowest `conv1 + relu` 0.0600 ms"
            in (result_of(tmp_path, "FP16 layer by layer"))
        )
        assert result_of(tmp_path, "GPU memory of an FP16") == (
            "opened: 212 MiB; 1×320×480: 301 MiB; 32×320×480: 332 MiB"
        )
        (cells,) = lines_of(page(read_gpu_results(tmp_path), DOCS), "the bus alone")
        assert cells[3:] == [H200, "2026-12-01", "TensorRT 8.6.0, driver for CUDA 13.0"]

    def test_a_share_that_is_too_small_is_missed(self, tmp_path: Path) -> None:
        write_device(tmp_path / "tier.json", device_row(32, 2.0, of_floor=0.59))
        assert result_of(tmp_path, "FP16 from pinned").endswith("59.0% (MISSED)")

    def test_a_run_that_was_cut_off_shows_what_it_had(self, tmp_path: Path) -> None:
        cut = DeviceRow(1, (320, 480), {"device": timing(0.2, 1)}, error="cut off")
        refused = DeviceRow(64, (320, 480), {}, error="the engine takes no batch of 64")
        write_device(tmp_path / "tier.json", device_row(32, 2.0), cut, refused)
        assert "1×320×480: 0.200 ms" in result_of(tmp_path, "FP16 alone on the GPU")
        assert "1×320×480" not in result_of(tmp_path, "FP16 from pinned memory to")
        assert "64×" not in result_of(tmp_path, "GPU memory of an FP16")

    @pytest.mark.parametrize(
        ("changes", "shown"),
        [({"tail": "tournament"}, "1×320×480: 0.100 ms"), ({"portable": "ampere+"}, NOT_MEASURED)],
    )
    def test_another_engine_is_no_answer_of_the_usual_one(
        self, tmp_path: Path, changes: dict[str, str], shown: str
    ) -> None:
        write_device(tmp_path / "early.json", device_row(1, 0.2))
        runner = replace(on_gpu("trt"), **changes)
        write_device(tmp_path / "other.json", device_row(1, 0.1), runner=runner)
        (found,) = results_of(tmp_path, "FP16 alone on the GPU")
        assert found.startswith("1×320×480: 0.200 ms")
        assert result_of(tmp_path, "the same with a tournament").startswith(shown)

    def test_a_shape_that_was_measured_anew_is_shown_as_it_is_now(self, tmp_path: Path) -> None:
        write_device(tmp_path / "old.json", device_row(1, 0.1), device_row(32, 2.0))
        write_device(tmp_path / "new.json", device_row(32, 3.0), created=DAY_AFTER)
        old, new = results_of(tmp_path, "FP16 alone on the GPU")
        assert old.startswith("1×320×480: 0.100 ms, 10,000 images/s ([`old.json`]")
        assert new.startswith("32×320×480: 3.00 ms, 10,700 images/s ([`new.json`]")

    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            (GraphCounts(12, 0), "`trt` fp16: none refused, 12 recorded"),
            (GraphCounts(3, 2), "`trt` fp16: REFUSED 2 times, 3 recorded"),
            (GraphCounts(0, 0), NOT_MEASURED),
            (None, NOT_MEASURED),
        ],
    )
    def test_graphs_that_are_refused_are_said(
        self, tmp_path: Path, counts: GraphCounts | None, said: str
    ) -> None:
        runner = replace(on_gpu("trt"), cuda_graphs=counts)
        write_device(tmp_path / "tier.json", device_row(32, 2.0), runner=runner)
        assert result_of(tmp_path, "CUDA graphs are recorded") == said

    def test_a_refusal_is_not_hidden_by_a_file_that_has_none(self, tmp_path: Path) -> None:
        refused, fine = (
            replace(on_gpu("trt"), cuda_graphs=counts)
            for counts in (GraphCounts(1, 99), GraphCounts(5, 0))
        )
        leak = {"memory_in_use_mib_after": {"100": 1300, "1000": 1300}}
        write_device(tmp_path / "leak.json", leak=leak, runner=refused)
        write_device(tmp_path / "tier.json", device_row(32, 2.0), runner=fine, created=DAY_AFTER)
        row = gpu_row("trt", 1.0)
        batch = replace(row.runner, cuda_graphs=GraphCounts(0, 1))
        write_bench(tmp_path / "bench.json", replace(row, runner=batch))
        found = results_of(tmp_path, "CUDA graphs are recorded")
        assert [result.partition(" (")[0] for result in found] == [
            "`trt` fp16: none refused, 5 recorded",
            "`trt` fp16: REFUSED 1 times, 0 recorded",
            "`trt` fp16: REFUSED 99 times, 1 recorded",
        ]

    @pytest.mark.parametrize(
        ("last", "said"), [(1310, "flat: 1,300 MiB after 100, 1,310"), (1400, "GROWS by 100 MiB")]
    )
    def test_memory_over_many_runs(self, tmp_path: Path, last: int, said: str) -> None:
        leak = {"memory_in_use_mib_after": {"100": 1300, "1000": last}}
        write_device(tmp_path / "leak.json", leak=leak)
        assert result_of(tmp_path, "memory over 1,000 runs").startswith(said)
        assert result_of(tmp_path, "GPU memory of an FP16") == NOT_MEASURED


class TestEngines:
    def test_an_engine_by_its_sidecar(self, plan: Path) -> None:
        (cells,) = lines_of(page(read_gpu_results(plan.parent), DOCS), "FP16 engine of TensorRT 10")
        result = "built in 12 s, 0.0 MB; layers: 20 fp16, 1 fp32 ([`fcn.fp16.trt-10"
        assert cells[2].startswith(result)
        assert cells[3:] == [L4, "2026-01-02", "TensorRT 10.16.1.11, driver for CUDA 13.0"]
        assert result_of(plan.parent, "FP16 engine of TensorRT 8.6") == NOT_MEASURED
        assert result_of(plan.parent, "FP32 engine") == NOT_MEASURED

    def test_another_engine_does_not_stand_in_its_place(self, plan: Path) -> None:
        usual = sidecar_of(plan)
        for name, changes in (
            ("tournament", {"tail": "tournament", "build_seconds": 20.0}),
            ("portable", {"flags": {"portable": "version"}, "build_seconds": 30.0}),
            ("both", {"tail": "tournament", "flags": {"portable": "ampere+"}}),
        ):
            sidecar = replace(usual, built_at=DAY, **changes)  # newer than the usual one
            write_sidecar(plan.with_name(f"{name}.plan"), sidecar)
        for what, built in (
            ("FP16 engine of TensorRT 10", "built in 12 s"),
            ("FP16 engine with a tournament", "built in 20 s"),
            ("FP16 engine that fits other", "`--portable version`: built in 30 s"),
        ):
            assert result_of(plan.parent, what).startswith(built)


class TestPytestJson:
    """What the script writes of a run of pytest, and what the page says of it."""

    def written(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *outcomes: str) -> int:
        script = load_script("pytest_json")
        monkeypatch.setattr(script, "gpu", lambda: {"name": H200, "driver": "13.0"})
        monkeypatch.setattr(script, "libraries", lambda versions: ["TensorRT 8.6.0"])

        def run(arguments: list[str], plugins: list[Any]) -> int:
            assert arguments == ["-m", "gpu"]
            for number, outcome in enumerate(outcomes):
                name = f"tests/runners/test_trt_gpu.py::test_{number}"
                for when, told in (("setup", "passed"), ("call", outcome), ("teardown", "passed")):
                    skipped = ("file", 1, "Skipped: no ort") if told == "skipped" else None
                    report: Any = pytest.TestReport(
                        name, ("", 0, ""), {}, told, skipped, when  # type: ignore[arg-type]
                    )  # fmt: skip
                    plugins[0].pytest_runtest_logreport(report)
            return int("failed" in outcomes)

        monkeypatch.setattr(script.pytest, "main", run)
        return int(script.main([str(folder / "tests.json"), "-m", "gpu"]))

    def test_all_that_passed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.written(tmp_path, monkeypatch, "passed", "passed", "skipped") == 0
        assert result_of(tmp_path, "`pytest -m gpu` of `trt`") == "2 passed, 1 skipped (no ort)"
        assert result_of(tmp_path, "`pytest -m gpu` of PyTorch") == NOT_MEASURED

    def test_one_that_failed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.written(tmp_path, monkeypatch, "passed", "failed") == 1
        assert result_of(tmp_path, "`pytest -m gpu` of `trt`") == (
            "FAILED: `test_1`; 1 passed, 1 failed"
        )

    def test_without_a_gpu_nothing_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        script = load_script("pytest_json")
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(BackendError):
            script.main([str(tmp_path / "tests.json")])
        assert not (tmp_path / "tests.json").exists()


class TestTraining:
    @pytest.mark.parametrize(("score", "said"), [(0.7, "reached: mIoU 0.700"), (0.6, "MISSED: ")])
    def test_a_score_within_a_time(self, tmp_path: Path, score: float, said: str) -> None:
        document = metrics(architecture="fcn8s-resnet18-os8", device="cuda", created=DAY)
        document["epochs"][-1]["val_mean_iou"] = score
        (tmp_path / "nvidia-x").mkdir()
        write_json(tmp_path / "nvidia-x" / "train.json", document)
        (cells,) = lines_of(page(read_gpu_results(tmp_path), DOCS), "`fcn8s-resnet18` from scratch")
        assert cells[2].startswith(said)
        assert "3 epochs of 9 s together" in cells[2]
        assert cells[3] == "not named (`nvidia-x`)"

    def test_too_long_is_missed(self, tmp_path: Path) -> None:
        document = metrics(architecture="fcn8s-resnet18", device="cuda (NVIDIA H200)")
        document["epochs"][-1] |= {"val_mean_iou": 0.7, "seconds": 700.0}
        write_json(tmp_path / "train.json", document)
        assert result_of(tmp_path, "`fcn8s-resnet18` from scratch").startswith("MISSED")

    def test_a_rate_is_of_many_pictures_alone(self, tmp_path: Path) -> None:
        document = json.loads(json.dumps(metrics(device="cuda (NVIDIA H200)")))
        write_json(tmp_path / "train.json", document)
        assert result_of(tmp_path, "examples per second") == NOT_MEASURED
        document["data"]["train"]["read"] = 2936
        write_json(tmp_path / "train.json", document)
        assert result_of(tmp_path, "examples per second") == (
            "`fcn32s-resnet18`, batch ?, 64×96, AMP off: 12.0 examples/s, 20.0% of the time "
            "waiting for data"
        )
