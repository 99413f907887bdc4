"""The peers of the benchmark: strong ones, but with our masks; and the table that ranks them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from fcn_deploy.bench import loadgen
from fcn_deploy.bench.regression import read_bench
from fcn_deploy.core.errors import BackendError, InputError, MissingStageError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.results.bench import Bench, BenchRow, LoadGenVerdict
from fcn_deploy.results.conditions import Conditions
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Runner, open_runner
from tests.result_files import bare_row, measured_bench

# As `python benchmarks/table.py` finds them: they are no part of the package.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import contenders
import markdown_page
import peers
import table
from peers import PEERS, SIZE_REFERENCE, Peer, openvino_api

from fcn_deploy.results import bench

#: (N, H, W).  A compiler takes seconds for each, so it is given the first one alone.
SHAPES = ((3, 97, 131), (1, 97, 131), (1, 33, 64), (2, 1, 1))
THREADS = 2
LOADGEN_MISSING = loadgen.unavailable_reason()


def pictures(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    count, height, width = shape
    return np.stack([draw_scene(0, index, (height, width))[0] for index in range(count)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec, traced_once: object) -> Run:
    """A network whose classes are told apart by the picture, with its plain export."""
    import torch

    from fcn_deploy.export.baseline import ensure_baseline
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    run = Run(tmp_path_factory.mktemp("peers"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(tiny_spec.architecture, tiny_spec.num_classes)
        # As after a little training: the statistics of batch normalisation are those of pictures.
        # With those of an untrained network the same class would win everywhere.
        batch = torch.from_numpy(pictures((4, 128, 160))).permute(0, 3, 1, 2).float()
        mean = 255 * torch.tensor(tiny_spec.mean).view(1, 3, 1, 1)
        std = 255 * torch.tensor(tiny_spec.std).view(1, 3, 1, 1)
        with torch.no_grad():
            for _ in range(5):
                model((batch - mean) / std)
    save_checkpoint(run.checkpoint, model.eval(), tiny_spec)
    ensure_baseline(run)
    return run


@pytest.fixture(scope="module")
def reference(run: Run) -> Iterator[Runner]:
    with open_runner(run, "torch", threads=THREADS, device="cpu") as runner:
        yield runner


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_gives_our_masks_tells_its_stages_and_closes_twice(
    peer: Peer, run: Run, reference: Runner
) -> None:
    if (reason := peer.unavailable_reason()) is not None:
        pytest.skip(reason)
    runner = peer.open(run, THREADS)
    description = runner.describe()
    assert description.backend == peer.name
    assert description.threads == THREADS
    for shape in SHAPES[:1] if "compile" in peer.name else SHAPES:
        images = pictures(shape)
        images.setflags(write=False)
        told: list[str] = []
        mask = runner.run(images, on_stage=told.append).mask
        expected = reference.run(images).mask
        assert told == [COPY_IN, COMPUTE]
        assert mask.dtype == np.uint8
        assert mask.shape == shape
        # One pixel may flip where two classes are level: a picture of 1×1 has no more than two.
        # A network that has hardly learned is near level in many more: coarse rounding shows it.
        share = 1 - contenders.MIN_AGREEMENT[description.precision]
        allowed = max(1.0, (5 if description.precision == "bf16" else 1) * share * mask.size)
        assert int((mask != expected).sum()) <= allowed, shape
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(pictures(SHAPES[0]))


def test_the_reference_network_has_masks_of_several_classes(reference: Runner) -> None:
    assert len(np.unique(reference.run(pictures(SHAPES[0])).mask)) > 1


def test_the_size_reference_says_what_it_is(run: Run) -> None:
    with SIZE_REFERENCE.open(run, THREADS) as runner:
        description = runner.describe()
        assert runner.run(pictures((1, 33, 64))).mask.shape == (1, 33, 64)
    assert description.backend == "peer:fcn_resnet50"
    assert "random weights" in description.library
    assert description.checkpoint_digest == ""  # nobody may take its masks for ours


def test_peers_bear_different_names_and_none_of_ours() -> None:
    names = [peer.name for peer in (*PEERS, SIZE_REFERENCE)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("peer:") for name in names)


class TestUnavailable:
    def test_half_precision_and_graphs_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        reasons = {peer.name: str(peer.unavailable_reason()) for peer in PEERS}
        assert "no GPU" in reasons["peer:compile-fp16"] or "compiler" in reasons["peer:compile"]
        assert "no GPU" in reasons["peer:cuda-graphs"]

    def test_no_openvino(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "openvino", None)
        assert "pip install openvino" in str(openvino_api.unavailable_reason())

    def test_a_cpu_without_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Core:
            def get_property(self, device: str, name: str) -> list[str]:
                return ["FP32", "INT8"]

        fake = ModuleType("openvino")
        fake.Core = Core  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "openvino", fake)
        assert openvino_api.unavailable_reason() is None
        assert "no bf16" in str(openvino_api.unavailable_reason("bf16"))

    def test_no_plain_export(self, tmp_path: Path) -> None:
        with pytest.raises(MissingStageError, match=r"baseline\.onnx"):
            openvino_api.open(Run(tmp_path), THREADS)

    def test_the_table_names_who_is_left_out(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from contextlib import ExitStack

        def cannot_open(run: Run, threads: int) -> Runner:
            raise BackendError("no such luck", "try tomorrow")

        lame = peers.Peer("peer:lame", lambda: "not installed", cannot_open)
        broken = peers.Peer("peer:broken", lambda: None, cannot_open)
        monkeypatch.setattr(contenders, "PEERS", (lame, broken))
        with ExitStack() as stack:
            opened, left_out = contenders.open_peers(run, THREADS, stack)
        assert opened == []
        assert left_out == [
            "peer:lame: not installed",
            "peer:broken: no such luck; try tomorrow",
        ]


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
        table.result_name(name) for name in (bench.SINGLE_STREAM, bench.OFFLINE)
    )
    assert throughputs == latencies.replace(".json", ".offline.json")


def row(backend: str, *repeats_ms: float, tier: str = "host") -> BenchRow:
    runner = RunnerDescription(
        backend, "cpu", "fp32", "fp32", "Library 1.0", 2, "model", "sha256:0", "sha256:0"
    )
    return bare_row(runner, repeats_ms, tier=tier, size=(320, 480))


class TestMarkdown:
    ROWS = (
        row("baseline", 50, 51, 52),
        row("ort", 40, 41, 42),
        row("peer:slow", 49, 52, 53),
        row("baseline", 60, 61, 62, tier="end-to-end"),
    )
    MASKS = {"baseline fp32": 1.0, "ort fp32": 0.99996, "peer:slow fp32": 1.0}  # noqa: RUF012

    def bench(self, rows: Sequence[BenchRow] = ROWS, *warnings: str) -> Bench:
        made = measured_bench(
            *rows,
            environment=Environment(
                "", "2026-11-27T10:00:00+00:00", {"cpu": "A CPU", "cores": 1}, {}
            ),
            conditions=Conditions(threads=2, warnings=warnings),
        )
        return replace(
            made, masks=self.MASKS, references=(row("peer:fcn_resnet50", 500, 501, 502),)
        )

    def text(self, *left_out: str) -> str:
        return markdown_page.markdown(self.bench(), left_out)

    def cells(self, text: str, name: str) -> list[str]:
        """Return the cells of a runner's line in the table of the host tier."""
        host = text.split("**single-stream, host")[1]
        (line,) = [line for line in host.splitlines() if line.startswith(f"| {name}")]
        return [cell.strip() for cell in line.strip("|").split("|")]

    def test_rows_fastest_first_references_last(self) -> None:
        host = self.text().split("**single-stream, host")[1]
        names = [line.split("|")[1].strip() for line in host.splitlines() if line.startswith("| ")]
        assert names[2:] == ["ort fp32", "plain export", "peer:slow fp32", "peer:fcn_resnet50 fp32"]

    def test_a_row(self) -> None:
        assert self.cells(self.text(), "ort") == [
            "ort fp32", "41.0 [40.0–42.0]", "24.4", "1.24 [1.24–1.25]", "99.996%", "timed loop",
            "Library 1.0",
        ]  # fmt: skip

    def test_the_heading_says_machine_day_and_clock(self) -> None:
        assert self.text().splitlines()[0] == (
            "A CPU, 1 core, 2 threads; 2026-11-27; 3 interleaved repeats, single stream by a timed "
            "loop."
        )

    def test_a_tie_is_called_a_tie_and_the_baseline_is_one(self) -> None:
        assert self.cells(self.text(), "peer:slow")[3] == "tie [0.981–1.02]"
        assert self.cells(self.text(), "plain export")[3] == "1"

    def test_neighbours_too_close_to_call_are_named(self) -> None:
        near = row("near", 41.5, 43, 44)
        host = markdown_page.markdown(self.bench((*self.ROWS, near))).split(
            "**single-stream, host"
        )[1]
        assert "Too close to call: ort fp32 and near fp32." in host
        assert "Too close" not in self.text()

    def test_what_loadgen_refuses_and_what_to_doubt_is_said(self) -> None:
        verdict = LoadGenVerdict(False, problems=("too short",))
        invalid = replace(row("ort", 40, 41, 42), loadgen=verdict)
        text = markdown_page.markdown(
            self.bench((invalid,), "the load was 9", "dropped"), ["dropped"]
        )
        assert self.cells(text, "ort")[5] == "INVALID: too short"
        assert text.endswith("Left out: dropped.\n\nWarning: the load was 9.\n")
        assert "INVALID" not in self.text()

    def test_another_network_is_not_ranked(self) -> None:
        assert self.cells(self.text(), "peer:fcn_resnet50")[3:5] == [
            "not ranked",
            "another network",
        ]

    def test_tiers_apart_and_who_is_missing(self) -> None:
        text = self.text("peer:cuda-graphs: no GPU")
        assert (
            text.count("**single-stream, host, ")
            == text.count("**single-stream, end-to-end, ")
            == 1
        )
        assert text.endswith("Left out: peer:cuda-graphs: no GPU.\n")

    def test_between_the_markers(self) -> None:
        page = f"before\n{markdown_page.BEGIN}\nold\n{markdown_page.END}\nafter\n"
        assert markdown_page.with_table(page, "new\n") == (
            f"before\n{markdown_page.BEGIN}\n\nnew\n\n{markdown_page.END}\nafter\n"
        )
        assert markdown_page.with_table("no markers", "new") is None
        assert markdown_page.with_table(f"{markdown_page.END}{markdown_page.BEGIN}", "new") is None


def test_a_page_without_markers_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("no markers\n", encoding="utf-8")
    markdown_page.update_page(page, "new")
    assert page.read_text(encoding="utf-8") == "no markers\n"
    assert "is as it was" in capsys.readouterr().out


def test_agreement_is_over_all_pixels() -> None:
    zeros = np.zeros((1, 2, 2), np.uint8)
    ones = np.ones((1, 4, 3), np.uint8)
    assert contenders.agreement([zeros, ones], [zeros, np.zeros_like(ones)]) == 0.25


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
        page.write_text(
            f"before\n{markdown_page.BEGIN}\n{markdown_page.END}\nafter\n", encoding="utf-8"
        )
        told = CliRunner().invoke(table.table, [*arguments, "--update-page", str(page)])
        assert told.exit_code == 0, told.output
        document = read_json(tmp_path / "out.json", "")
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
        assert "peer:fcn_resnet50: it is measured one query at a time only" in page

    def test_a_page_s_table_is_of_latencies(self, arguments: list[str], tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text("", encoding="utf-8")
        words = ["--scenario", "offline", "--update-page", str(page)]
        told = CliRunner().invoke(table.table, [*arguments, *words])
        assert isinstance(told.exception, InputError)
        assert not (tmp_path / "out.json").exists()

    def test_a_peer_with_wrong_masks_is_no_peer(
        self, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (right,) = contenders.PEERS

        def open_wrong(run: Run, threads: int) -> Runner:
            runner = right.open(run, threads)
            # Red and blue exchanged: the mistake that such scripts make.
            infer = runner._infer
            monkeypatch.setattr(runner, "_infer", lambda images: infer(images[..., ::-1]))
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
