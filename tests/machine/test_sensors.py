# ruff: noqa: N802 - the names are NVML's own
"""What the machine is doing: NVML and /proc as they may be, and the warnings that follow."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.bench.conditions import read_gpus, warnings_about
from fcn_deploy.machine import sensors
from fcn_deploy.machine.sensors import (
    CpuTimes,
    energy_joules,
    others_share,
    read_cpu_times,
    steal_share,
    system_load,
)
from fcn_deploy.results.conditions import Sensor

CALM = Sensor("Fake GPU", 1980, 2619, 41, 412.5, ())


class NVMLError(Exception):
    """As the package's own: it derives from Exception and nothing else."""


class FakeNvml:
    """Stands in for ``pynvml``; what ``missing`` names raises ``NVMLError``."""

    NVMLError = NVMLError

    def __init__(self, bits: int = 0, missing: tuple[str, ...] = (), gpus: int = 2) -> None:
        self.bits, self.missing, self.gpus = bits, missing, gpus
        self.name: str | bytes = "Fake GPU"
        self.users = 0
        self.asked_for: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "missing"):

            def refuse(*_: Any) -> None:
                raise NVMLError("Not Supported")

            return refuse
        return object.__getattribute__(self, name)

    def nvmlInit(self) -> None:
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index >= self.gpus:
            raise NVMLError("Invalid Argument")
        self.asked_for.append(str(index))
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked_for.append(uuid)
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> str | bytes:
        assert handle == "handle"
        return self.name

    def nvmlDeviceGetClockInfo(self, handle: str, clock: int) -> int:
        return {1: 1980, 2: 2619}[clock]

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return {0: 41}[sensor]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 412_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return 987_654

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.bits

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.bits


class OldNvml(FakeNvml):
    """A release that does not know the new name."""

    @property
    def nvmlDeviceGetCurrentClocksEventReasons(self) -> Any:
        raise AttributeError("module 'pynvml' has no such attribute")


Install = Callable[[FakeNvml], FakeNvml]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def put(nvml: FakeNvml) -> FakeNvml:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return nvml

    return put


def test_a_gpu_is_read(install: Install) -> None:
    nvml = install(FakeNvml())
    assert read_gpus() == (CALM,)
    assert energy_joules() == pytest.approx(987.654)
    assert nvml.users == 0
    assert nvml.asked_for == ["0", "0"]


def test_a_reading_as_json() -> None:
    assert replace(CALM, throttle_reasons=("power cap",)).to_json() == {
        "name": "Fake GPU", "sm_clock_mhz": 1980, "memory_clock_mhz": 2619, "temperature_c": 41,
        "power_w": 412.5, "throttle_reasons": ["power cap"],
    }  # fmt: skip
    assert replace(CALM, throttle_reasons=None).to_json()["throttle_reasons"] is None


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0x0, ()),
        (0x1, ()),
        (0x4, ("power cap",)),
        (0x21, ("thermal slowdown",)),
        (0x48, ("hw slowdown", "hw thermal slowdown")),
        (0x10, ("sync boost",)),
        (0x2, ("application clocks",)),
        (0x80, ("hw power brake",)),
        (0x700, ("display clocks", "board limit", "reliability")),
        (0x10004, ("power cap", "reason 0x10000")),
    ],
)
@pytest.mark.parametrize("release", [FakeNvml, OldNvml])
def test_reasons_become_words(
    install: Install, release: type[FakeNvml], bits: int, words: tuple[str, ...]
) -> None:
    install(release(bits))
    (reading,) = read_gpus()
    assert reading.throttle_reasons == words


def test_a_driver_that_is_older_than_the_package(install: Install) -> None:
    install(FakeNvml(0x4, missing=("nvmlDeviceGetCurrentClocksEventReasons",)))
    assert read_gpus()[0].throttle_reasons == ("power cap",)


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
    ],
)
def test_what_the_gpu_does_not_give_is_none(install: Install, function: str, field: str) -> None:
    install(FakeNvml(missing=(function,)))
    assert read_gpus() == (replace(CALM, **{field: None}),)


def test_a_gpu_that_gives_nothing_at_all(install: Install) -> None:
    given = [name for name in dir(FakeNvml) if name.startswith("nvmlDeviceGet")]
    install(FakeNvml(missing=tuple(n for n in given if n != "nvmlDeviceGetHandleByIndex")))
    assert read_gpus() == (Sensor(None, None, None, None, None, None),)
    assert energy_joules() is None


def test_old_releases_give_names_as_bytes(install: Install) -> None:
    install(FakeNvml()).name = b"Tesla \xff"
    assert read_gpus()[0].name == "Tesla \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("visible", "asked"),
    [
        ("1,0", ["1"]),
        (" 1", ["1"]),
        ("GPU-8a1b", ["GPU-8a1b"]),
        ("", None),
        ("-1", None),
        ("NoDevFiles", None),
        ("7", None),
    ],
)
def test_device_0_is_the_first_that_cuda_may_see(
    install: Install, monkeypatch: pytest.MonkeyPatch, visible: str, asked: list[str] | None
) -> None:
    nvml = install(FakeNvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert read_gpus() == (() if asked is None else (CALM,))
    assert nvml.asked_for == (asked or [])
    assert (energy_joules() is None) == (asked is None)
    assert nvml.users == 0


def test_no_nvml_no_reading(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(FakeNvml(missing=("nvmlInit",)))  # the package without a driver
    assert read_gpus() == ()
    assert energy_joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert read_gpus() == ()
    assert energy_joules() is None


def test_a_failing_shutdown_costs_nothing(install: Install) -> None:
    install(FakeNvml(missing=("nvmlShutdown",)))
    assert read_gpus() == (CALM,)


def test_this_machine_can_be_read() -> None:
    load, times = system_load(), read_cpu_times()
    assert load is None or load >= 0
    assert times is None or times.wanted > times.stolen >= 0
    assert len(read_gpus()) <= 1


def test_load_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unobtainable() -> None:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr("os.getloadavg", unobtainable)
    assert system_load() is None
    monkeypatch.delattr("os.getloadavg")
    assert system_load() is None


def test_cpu_times_out_of_proc_stat() -> None:
    text = "cpu  1000 20 300 5000 60 7 8 90 500 4\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1\n"
    # guest time is part of user time; idle and iowait are no work
    assert CpuTimes.from_text(text) == CpuTimes(1000 + 20 + 300 + 7 + 8 + 90, 90, 6485)


@pytest.mark.parametrize(
    "text", ["", "\n", "cpu", "cpu  1 2 3 4", "intr 1 2 3 4 5 6 7 8", "cpu a b c d e f g h"]
)
def test_other_texts_give_no_cpu_times(text: str) -> None:
    assert CpuTimes.from_text(text) is None


def test_no_proc_no_cpu_times(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert sensors.read_cpu_times() is None


def test_steal_is_held_against_the_time_with_work() -> None:
    before = CpuTimes(wanted=1000, stolen=10)
    assert steal_share(before, CpuTimes(2000, 60)) == pytest.approx(0.05)
    assert steal_share(before, CpuTimes(2000, 10)) == 0
    assert steal_share(before, CpuTimes(2000, 9)) == 0
    assert steal_share(before, CpuTimes(1050, 60)) is None  # too short to say
    assert steal_share(before, None) is None
    assert steal_share(None, before) is None


def test_what_is_neither_ours_nor_stolen_is_others_work() -> None:
    before = CpuTimes(wanted=1000, stolen=10, all=4000, own=100.0)
    # 1000 busy ticks of 2000 more, 50 of them stolen, 850 our own
    assert others_share(before, CpuTimes(2000, 60, 6000, 950.0)) == pytest.approx(100 / 2000)
    assert others_share(before, CpuTimes(2000, 60, 6000, 1060.0)) == 0  # rounded otherwise
    assert others_share(before, CpuTimes(1020, 10, 4080, 140.0)) is None  # too short to say
    assert others_share(before, None) is None
    assert others_share(None, before) is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/stat")
def test_the_own_work_of_process_and_children_is_told_from_others() -> None:
    before = sensors.read_cpu_times()
    assert before is not None
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    started = time.process_time()
    while time.process_time() - started < 0.3:
        pass
    after = sensors.read_cpu_times()
    assert after is not None
    assert (after.own - before.own) / os.sysconf("SC_CLK_TCK") >= 0.55


def quiet(**changes: Any) -> list[str]:
    readings: dict[str, Any] = {
        "load_before": 1.0,
        "others": 0.05,
        "cores": 2,
        "steal": 0.02,
        "gpus_after": (CALM,),
        "variation": {"ort, host": 0.025},
    }
    return warnings_about(**{**readings, **changes})


def test_a_calm_machine_gives_no_warning() -> None:
    assert quiet() == []
    assert quiet(load_before=None, others=None, steal=None, gpus_after=(), variation={}) == []
    assert quiet(load_before=9.0) == []  # of the command before: nothing ran meanwhile
    assert quiet(gpus_after=(replace(CALM, throttle_reasons=None),)) == []
    assert quiet(variation={"ort, host": float("nan")}) == []


def test_other_work_is_warned_of() -> None:
    assert quiet(others=0.0712) == [
        "other programs took 7.1 % of this machine's CPU time meanwhile; stop them, or read the "
        "ratios only"
    ]


def test_where_others_cannot_be_told_the_load_before_speaks() -> None:
    assert quiet(others=None, load_before=3.2) == [
        "other work ran on this machine in the minute before: load 3.2 on 2 cores; stop it, or "
        "read the ratios only"
    ]
    assert "load 0.6 on 1 core;" in quiet(others=None, load_before=0.6, cores=1)[0]


def test_stolen_time_is_warned_of() -> None:
    (warning,) = quiet(steal=0.0512)
    assert warning.startswith("the hypervisor gave 5.1 % of this machine's CPU time")


def test_a_gpu_held_back_is_warned_of() -> None:
    hot = replace(CALM, throttle_reasons=("power cap", "thermal slowdown"))
    (warning,) = quiet(gpus_after=(hot,))
    assert "clocks of Fake GPU were held back" in warning
    assert "power cap, thermal slowdown;" in warning
    (warning,) = quiet(gpus_after=(replace(hot, name=None),))
    assert "the clocks of the GPU were" in warning


def test_locked_clocks_are_no_fault() -> None:
    assert quiet(gpus_after=(replace(CALM, throttle_reasons=("application clocks",)),)) == []


def test_unsteady_rows_are_warned_of_worst_first() -> None:
    (warning,) = quiet(variation={"steady": 0.01, "a": 0.031})
    assert warning.startswith("the repeats of 1 row vary by more than 2.5 % ")
    assert "a: 3.1 %;" in warning
    assert "steady" not in warning
    (warning,) = quiet(variation={"a": 0.03, "b": 0.05, "c": 0.04, "d": 0.06, "e": 0.0251})
    assert "5 rows" in warning
    assert "d: 6.0 %; b: 5.0 %; c: 4.0 %; and 2 more;" in warning


def test_every_warning_at_once() -> None:
    hot = replace(CALM, throttle_reasons=("power cap",))
    warnings = quiet(others=0.5, steal=0.5, gpus_after=(hot,), variation={"a": 1.0})
    assert len(warnings) == 4
    assert all(len(warning.splitlines()) == 1 for warning in warnings)
