"""The script that measures an engine on a GPU, on fakes: what it writes, not how fast."""

import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.report.page import write_merged_report
from fcn_deploy.report.repeat_commands import repeat_commands
from fcn_deploy.report.tables import SLOWEST_LAYERS, slowest_layers
from fcn_deploy.results.device import DeviceRow
from fcn_deploy.results.read import read_files
from tests.benchmarks.gpu_result_files import device_row, write_device
from tests.benchmarks.gpu_scripts import load_script
from tests.fake_tensorrt import LAYER_MS
from tests.fakes import FakeRunner
from tests.tensorrt_fixtures import FakeMachine, install, write_onnx

RUN = Run(Path("runs/city"))


def measured(script: ModuleType, file: str, *options: str) -> dict[str, Any]:
    """Measure the run in FP16; return what was written into the file."""
    script.main([str(RUN.root), "fp16", file, *options])
    return read_json(Path(file), "measure it")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, in miniature."""
    module = load_script("device_tier")
    for name, value in {
        "SHAPES": ((2, 8, 9), (99, 8, 9)),
        "WARM_UP_RUNS": 2,
        "RUNS": 3,
        "REPEATS": 3,
        "STREAM_SECONDS": 1e-3,
        "LEAK_RUNS": 10,
        "LEAK_MARKS": (5, 10),
    }.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMachine:
    """Stand in a folder with a run that has an engine."""
    monkeypatch.chdir(tmp_path)
    machine = install(monkeypatch, "11.4.0")
    write_onnx(RUN.onnx(Precision.FP16), Precision.FP16)
    machine.build(
        RUN.onnx(Precision.FP16), name=RUN.name, command="fcn-deploy build runs/city --fp16"
    )
    return machine


def test_every_tier_and_the_layers_are_written(
    script: ModuleType, machine: FakeMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two threads at once would be two hands on the fake's clockwork.
    with pytest.raises(SystemExit) as stop:  # one of the shapes is refused
        script.main([str(RUN.root), "fp16", "device.json", "--contexts", "1"])
    assert stop.value.code == 1
    assert "99x8x9: the engine" in capsys.readouterr().err
    document = read_json(Path("device.json"), "measure it")
    row, refused = document["rows"]
    assert row["batch"] == 2
    assert row["size"] == [8, 9]
    for tier in ("launches", "device", "bus", "pinned", "host"):
        assert len(row[tier]["repeats_ms"]) == 3
        assert row[tier]["images_per_s"] == pytest.approx(2000 / row[tier]["median_ms"])
    floor = min(row["launches"]["images_per_s"], row["bus"]["images_per_s"])
    assert row["pinned"]["of_floor"] == pytest.approx(row["pinned"]["images_per_s"] / floor)
    assert {layer["name"]: layer["ms"] for layer in row["layers"]} == pytest.approx(LAYER_MS)
    assert row["layers"][0]["name"] == "conv"  # the slowest
    assert "takes no batch of 99x8x9" in refused["error"]
    assert list(document["leak"]["memory_in_use_mib_after"]) == ["5", "10"]
    assert document["runner"]["precision"] == "fp16"
    assert set(machine.cuda.held().values()) == {0}
    # The report reads it: the shape that was measured, and the engine's layers.
    (device,) = read_files([Path("device.json")]).devices
    (shape,) = device.rows
    assert shape.to_json() == row  # a row is read back as it was written
    assert device.to_json() == {**document, "rows": [row], "runner": device.runner.to_json()}
    assert shape.layers == (("conv", pytest.approx(0.25)), ("argmax", pytest.approx(0.125)))
    page = write_merged_report([Path("device.json")]).read_text(encoding="utf-8")
    assert "The slowest layers at 2×8×9" in page
    assert "<td>conv</td>" in page
    assert "66.7 %" in page
    commands = repeat_commands(read_files([Path("device.json")]))
    assert "python benchmarks/gpu/device_tier.py RUN fp16 device.json" in commands


def test_shapes_that_are_asked_for_are_measured_alone(
    script: ModuleType, machine: FakeMachine
) -> None:
    asked = ["--contexts", "1", "--shape", "1x8x9", "--shape", "3x4x5"]
    document = measured(script, "device.json", *asked)
    assert [(row["batch"], row["size"]) for row in document["rows"]] == [(1, [8, 9]), (3, [4, 5])]
    assert all("pinned" in row for row in document["rows"])
    assert "leak" not in document  # minutes, for whoever has minutes


def test_what_a_busy_host_has_no_part_in_can_be_measured_alone(
    script: ModuleType, machine: FakeMachine
) -> None:
    document = measured(script, "alone.json", "--alone", "--shape", "1x8x9")
    (row,) = document["rows"]
    assert row.keys() == {"batch", "size", "memory_mib", "layers", "launches", "error"}
    assert row["error"] == "layers and launches were all that was asked for"
    assert "leak" not in document
    (device,) = read_files([Path("alone.json")]).devices
    assert device.rows[0].alone_ms == row["launches"]["median_ms"]
    assert device.rows[0].of_floor is None


def test_the_leak_can_be_looked_for_alone(script: ModuleType, machine: FakeMachine) -> None:
    document = measured(script, "leak.json", "--leak")
    assert document["rows"] == []
    assert list(document["leak"]["memory_in_use_mib_after"]) == ["5", "10"]
    document = measured(script, "both.json", "--leak", "--shape", "1x8x9")
    assert len(document["rows"]) == 1
    assert "leak" in document
    for name in ("leak.json", "both.json"):
        assert "In short" in write_merged_report([Path(name)]).read_text(encoding="utf-8")


def test_what_was_measured_before_the_end_is_in_the_file(
    script: ModuleType, machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(BaseException):
        """A process that is ended."""

    def ended(shape: object) -> None:
        raise CutOffError

    monkeypatch.setattr(script, "_bus", ended)
    with pytest.raises(CutOffError):
        script.main([str(RUN.root), "fp16", "device.json", "--shape", "1x8x9"])
    (row,) = read_json(Path("device.json"), "measure it")["rows"]
    assert row["error"] == "cut off before all of it was measured"
    assert row.keys() == {"batch", "size", "memory_mib", "layers", "launches", "device", "error"}
    assert read_files([Path("device.json")]).files == ("device.json",)


def test_the_report_shows_the_times_that_the_share_is_computed_from(tmp_path: Path) -> None:
    row = device_row(32, 5.0)
    timings = {name: timing for name, timing in row.timings.items() if name != "launches"}
    older = replace(row, timings=timings)
    file = write_device(tmp_path / "device.json", device_row(1, 0.1), older)
    page = write_merged_report([file], tmp_path / "report.html").read_text(encoding="utf-8")
    cells = [
        re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", line)
        for line in page.splitlines()
        if "launches in a row, ms" in line or "×320×480</th>" in line
    ]
    assert cells == [
        ["batch", "launches in a row, ms", "one batch, ms", "pinned stream, ms",
         "of the slower of copies and launches", "sum of the layers, ms"],
        ["1×320×480", "0.100", "0.120", "0.135", "74 %", "0.110"],
        ["32×320×480", "n/a", "6.00", "6.76", "74 %", "5.50"],
    ]  # fmt: skip


def test_many_layers_are_summed_up() -> None:
    layers = tuple((f"layer {number}", 20.0 - number) for number in range(20))
    row = DeviceRow(1, (320, 480), {}, layers)
    found = slowest_layers(row)
    assert len(found) == SLOWEST_LAYERS + 1
    assert found[-1][0] == "8 others"
    assert sum(ms for _name, ms in found) == row.layers_ms


def test_contexts_share_the_device_and_a_failure_is_told(script: ModuleType) -> None:
    runners = [FakeRunner(), FakeRunner()]
    batches = [np.zeros((2, 4, 4, 3), np.uint8)] * 3
    figures = script._streamed([(runner.stream, batches) for runner in runners], 5)
    assert figures.images_per_s > 0
    assert [len(runner.shapes) for runner in runners] == [2 + 3 * 5] * 2
    broken = [np.zeros((2, 4, 4), np.uint8)]
    with pytest.raises(InputError, match="rank 3"):
        script._streamed([(runners[0].stream, broken)], 1)
