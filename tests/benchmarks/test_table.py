"""The command that measures ours beside the peers, and the files that it writes."""

import json
from dataclasses import replace
from pathlib import Path

import contenders
import markdown_page
import peers
import pytest
import table
from click.testing import CliRunner
from peers import PEERS

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.regression import read_bench
from fcn_deploy.bench.scenarios import Scenario
from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.results import bench, scenarios
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.runners.base import Outputs, Runner
from tests.benchmarks.table_inputs import row
from tests.result_files import measured_bench

LOADGEN_MISSING = loadgen.unavailable_reason()


@pytest.mark.parametrize(
    ("cpu", "cores", "gpu_name", "slug"),
    [
        ("Intel(R) Xeon(R) Processor", 2, None, "intel-xeon-processor-2-cores"),
        (
            "AMD EPYC 9654 96-Core Processor", 16, "NVIDIA H200",
            "amd-epyc-9654-96-core-processor-16-cores-nvidia-h200",
        ),
        ("Intel(R) Core(TM) i5 @ 2.40GHz", 1, None, "intel-core-i5-2-40ghz-1-core"),
    ],
)  # fmt: skip
def test_machine_slug(cpu: str, cores: int, gpu_name: str | None, slug: str) -> None:
    assert table.machine_slug({"cpu": cpu, "cores": cores}, gpu_name) == slug


def test_the_scenarios_of_a_machine_have_files_of_their_own() -> None:
    latencies, throughputs = (
        table.result_name(name) for name in (scenarios.SINGLE_STREAM, scenarios.OFFLINE)
    )
    assert throughputs == latencies.replace(".json", ".offline.json")


def test_a_recorded_result_of_another_network_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a-cpu-2-cores.json"
    assert table.beside_others(target, "sha256:0") == target
    document = measured_bench(row("ort", 1, 2, 3)).to_json()
    target.write_text(json.dumps(document), encoding="utf-8")
    assert table.beside_others(target, "sha256:0") == target  # the same network once more
    assert capsys.readouterr().out == ""
    own = tmp_path / "a-cpu-2-cores.12345678.json"
    assert table.beside_others(target, "sha256:123456789abc") == own
    assert "another network and stays" in capsys.readouterr().out
    target.write_text("{", encoding="utf-8")
    assert table.beside_others(target, "sha256:123456789abc") == own


@pytest.mark.slow
class TestCommand:
    """The whole of it on tiny pictures, with one peer that is right and one that is not."""

    @pytest.fixture
    def arguments(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        from fcn_deploy.core.spec import Precision
        from fcn_deploy.export.exporter import onnx_from_checkpoint

        if not run.onnx(Precision.FP32).is_file():
            onnx_from_checkpoint(run.checkpoint, run.onnx(Precision.FP32))
        right = next(peer for peer in PEERS if peer.name == "peer:eager")
        monkeypatch.setattr(contenders, "PEERS", (right,))
        # LoadGen would ask each of them 64 times, and seconds are wasted on the size reference.
        monkeypatch.setattr(table.loadgen, "unavailable_reason", lambda: "not asked for")
        monkeypatch.setattr(table, "REFERENCE_SECONDS", 1e-3)
        monkeypatch.setattr(contenders, "usable_backends", lambda precision: ("torch", "ort"))
        words = f"{run.root} --out {tmp_path}/out.json --size 24x32 --repeats 3 --seconds 0.001"
        words += " --tier host --tier end-to-end"
        return [*words.split(), "--no-cold-start"]

    def test_what_is_written(self, arguments: list[str], tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        first, last = markdown_page.markers("bench")
        page.write_text(f"before\n{first}\n{last}\nafter\n", encoding="utf-8")
        told = CliRunner().invoke(table.table, [*arguments, "--update-page", str(page)])
        assert told.exit_code == 0, told.output
        assert "single-stream: 8 rows × 3 interleaved repeats: about 10 seconds\n" in told.output
        document = read_json(tmp_path / "out.json", "")
        assert document["order_seed"] is not None
        assert document["masks"].keys() == {
            "baseline fp32", "torch fp32", "ort fp32", "peer:eager fp32",
        }  # fmt: skip
        assert min(document["masks"].values()) > 0.999
        assert len(document["rows"]) == 4 * 2
        assert all(row["speedup_over_baseline"] is not None for row in document["rows"])
        (reference,) = document["references"]
        assert reference["runner"]["backend"] == "peer:fcn_resnet50"
        assert (reference["tier"], reference["speedup_over_baseline"]) == ("host", None)
        read = read_bench(tmp_path / "out.json")
        assert len(read.rows) == len(document["rows"])
        assert [row.runner.backend for row in read.references] == ["peer:fcn_resnet50"]
        assert document["options"] == [
            "--repeats", "3", "--seconds", "0.001", "--tier", "host", "--tier", "end-to-end",
            "--size", "24x32", "--no-cold-start",
        ]  # fmt: skip
        assert "| peer:eager fp32 |" in (tmp_path / "out.md").read_text(encoding="utf-8")
        updated = page.read_text(encoding="utf-8")
        assert "| peer:eager fp32 |" in updated
        assert updated.startswith("before\n")
        assert updated.endswith("\nafter\n")

    def test_offline_is_asked_by_loadgen_alone(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments += ["--scenario", "offline"]
        told = CliRunner().invoke(table.table, arguments)
        assert isinstance(told.exception, BackendError)
        assert told.exception.repair == "or use --scenario single-stream"
        assert not (tmp_path / "out.json").exists()
        if LOADGEN_MISSING is not None:
            pytest.skip(LOADGEN_MISSING)
        monkeypatch.setattr(table.loadgen, "unavailable_reason", lambda: None)
        told = CliRunner().invoke(table.table, arguments)
        assert told.exit_code == 0, told.output
        document = read_json(tmp_path / "out.json", "")
        assert {row["scenario"] for row in document["rows"]} == {"offline"}
        assert document["references"] == []  # a latency has no place among throughputs
        assert {row.workload.scenario for row in read_bench(tmp_path / "out.json").rows} == {
            "offline"
        }
        page = (tmp_path / "out.md").read_text(encoding="utf-8")
        assert "interleaved repeats, offline (time per batch" in page

    def test_one_run_fills_both_pages(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, str, bool]] = []

        def measured(
            options: table.TableOptions, source: Run, scenario: Scenario, target: Path
        ) -> tuple[bench.Bench, list[str], bool]:
            asked.append((scenario.name, target.name, options.cold_start))
            offline = {"scenario": scenario.name}
            rows = [
                replace(row("torch", 80, 81, 82, library="PyTorch 2.15"), **offline),
                replace(row("baseline", 50, 51, 52), **offline),
                replace(row("ort", 40, 41, 42), **offline),
            ]
            return measured_bench(*rows), [f"peer:lame: no {scenario.name}"], True

        gpu_pages: list[str] = []
        monkeypatch.setattr(table, "write_gpu_pages", lambda: gpu_pages.append("written"))
        monkeypatch.setattr(table, "_measured", measured)
        monkeypatch.setattr(table.loadgen, "unavailable_reason", lambda: None)
        parts = {"PAGE": ("bench", "bench-offline"), "README": ("bench-short",)}
        for name, of_page in parts.items():
            lines = [line for part in of_page for line in markdown_page.markers(part)]
            text = "\n".join(["before", *lines, "after"])
            (tmp_path / name).write_text(text, encoding="utf-8")
            monkeypatch.setattr(table, name, tmp_path / name)
        words = [*arguments, "--cold-start", "--update-page", str(tmp_path / "PAGE")]
        words += ["--scenario", "single-stream", "--scenario", "offline"]
        told = CliRunner().invoke(table.table, words)
        assert told.exit_code == 0, told.output
        # The cold starts are the same in both.
        assert asked == [
            ("single-stream", "out.json", True),
            ("offline", "out.offline.json", False),
        ]
        page, readme = ((tmp_path / name).read_text("utf-8") for name in parts)
        latencies, throughputs = page.split("bench-offline:begin")
        assert "**single-stream, host" in latencies
        assert "peer:lame: no single-stream" in latencies
        assert "**offline, host" in throughputs
        assert "| ort fp32 | 41.0 [40.0–42.0] | 24.4 | 1.98 [1.95–2.00] |" in throughputs
        assert "**single-stream" not in throughputs
        assert "| backend | ms per image [spread] | × PyTorch | × plain export |" in readme
        assert "in fp32 `ort`: **1.98** × PyTorch, 1.24 × plain export." in readme
        assert readme.startswith("before\n")
        assert readme.endswith("after")
        assert gpu_pages == ["written"]
        for file in ("out.md", "out.offline.md"):
            assert (tmp_path / file).is_file()

    def test_a_peer_with_wrong_masks_is_no_peer(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (right,) = contenders.PEERS

        def open_wrong(run: Run, threads: int) -> Runner:
            runner = right.open(run, threads)
            # Each class is the next one: a list of classes without its first, as happens.
            infer, classes = runner._infer, runner.spec.num_classes
            monkeypatch.setattr(
                runner, "_infer", lambda images: Outputs((infer(images).mask + 1) % classes)
            )
            return runner

        monkeypatch.setattr(
            contenders, "PEERS", (peers.Peer(right.name, lambda: None, open_wrong),)
        )

        def lost(*_: object) -> tuple[BenchRow, ...]:
            raise BackendError("no memory for it")

        monkeypatch.setattr(table, "measure_reference", lost)
        told = CliRunner().invoke(table.table, arguments)
        assert told.exit_code == 1, told.output
        assert "left out: peer:eager fp32: only" in told.output
        document = read_json(tmp_path / "out.json", "")
        assert document["masks"]["peer:eager fp32"] < 0.9999
        assert "peer:eager" not in {row["runner"]["backend"] for row in document["rows"]}
        # That the size reference fails costs the others nothing.
        assert document["references"] == []
        assert "peer:fcn_resnet50: no memory for it" in (tmp_path / "out.md").read_text("utf-8")
