"""What the machine is doing while figures are taken: load, stolen time, the GPU's clocks.

The GPU is asked through NVML, by the optional package ``nvidia-ml-py``.  Nothing here raises:
figures may be had where their circumstances are not known, and say so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

#: Fewer ticks (of a hundredth of a second, on Linux) than these cannot tell 2 % from 0 %.
_MIN_TICKS = 100
# NVML's own numbers, fixed by its C header; the Python package has renamed them over time.
_TEMPERATURE_OF_GPU = 0
_CLOCK_SM, _CLOCK_MEMORY = 1, 2
_GPU_IDLE = 0x1
LOCKED_CLOCKS = "application clocks"
_CLOCK_REASONS = {
    0x2: LOCKED_CLOCKS,
    0x4: "power cap",
    0x8: "hw slowdown",
    0x10: "sync boost",
    0x20: "thermal slowdown",
    0x40: "hw thermal slowdown",
    0x80: "hw power brake",
    0x100: "display clocks",
    0x200: "board limit",
    0x400: "reliability",
}


def system_load() -> float | None:
    """Return the load average of the last minute, or None where the system has none."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


@dataclass(frozen=True)
class CpuTimes:
    """What the CPUs have done since the machine started, in ticks, all cores together.

    Attributes:
        wanted: the CPUs had work; some of it was stolen.
        stolen: they had work, but the hypervisor ran another machine.
        all: busy or idle.
        own: ticks of this process and of its children that have ended.
    """

    wanted: int
    stolen: int
    all: int = 0
    own: float = 0.0

    @classmethod
    def from_text(cls, text: str) -> CpuTimes | None:
        """Read the first line of Linux' ``/proc/stat``; None where it does not say."""
        name, *words = text.split("\n", 1)[0].split() or [""]
        # user nice system idle iowait irq softirq steal; what follows is part of user and nice
        if name != "cpu" or len(words) < 8 or not all(word.isdigit() for word in words[:8]):
            return None
        ticks = [int(word) for word in words[:8]]
        stolen = ticks[7]
        return cls(sum(ticks) - ticks[3] - ticks[4], stolen, sum(ticks))


def read_cpu_times() -> CpuTimes | None:
    """Return the CPUs' times until now, or None on systems other than Linux."""
    try:
        text = Path("/proc/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    times = CpuTimes.from_text(text)
    return None if times is None else replace(times, own=_own_ticks())


def _own_ticks() -> float:
    spent = os.times()
    seconds = spent.user + spent.system + spent.children_user + spent.children_system
    return seconds * os.sysconf("SC_CLK_TCK")


def others_share(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Return the share, 0 to 1, of the machine's CPU time between two readings that others took.

    Others are all its processes but this one and its children that have ended.  It is held against
    all CPUs' time, idle or not: on many cores, work on one of them leaves room for ours.

    None where a reading is missing, or less than a second of CPU time lies between them.
    """
    if before is None or after is None or after.all - before.all < _MIN_TICKS:
        return None
    spent = (after.wanted - after.stolen) - (before.wanted - before.stolen)
    # Both counts are rounded to ticks, each in its own way.
    return max(0.0, spent - (after.own - before.own)) / (after.all - before.all)


def steal_share(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Return the share, 0 to 1, of the CPU time wanted between two readings that was stolen.

    It is held against the time in which the CPUs had work, not against all time as ``top`` does:
    one busy core of sixteen would else hide that a fifth of its time went to another machine.

    None where a reading is missing, or less than a second of CPU time lies between them.
    """
    if before is None or after is None or after.wanted - before.wanted < _MIN_TICKS:
        return None
    # The kernel does not promise that the counter never steps back.
    return max(0, after.stolen - before.stolen) / (after.wanted - before.wanted)


def energy_joules() -> float | None:
    """Return the energy that CUDA's device 0 has used since its driver was loaded, in joules.

    None where there is no GPU, or one that does not count it (before Volta).
    """
    with first_gpu() as gpu:
        millijoules = None if gpu is None else gpu.ask("nvmlDeviceGetTotalEnergyConsumption")
    return None if millijoules is None else millijoules / 1000


@dataclass(frozen=True)
class NvmlDevice:
    """A GPU that answers through NVML.

    Attributes:
        library: the package ``pynvml``.
        handle: NVML's of the GPU.
    """

    library: Any
    handle: Any

    @property
    def name(self) -> str | None:
        """As NVIDIA names it."""
        name = self.ask("nvmlDeviceGetName")
        return name.decode(errors="replace") if isinstance(name, bytes) else name

    @property
    def sm_clock_mhz(self) -> int | None:
        """Clock of the multiprocessors."""
        clock: int | None = self.ask("nvmlDeviceGetClockInfo", _CLOCK_SM)
        return clock

    @property
    def memory_clock_mhz(self) -> int | None:
        """Clock of its memory."""
        clock: int | None = self.ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY)
        return clock

    @property
    def temperature_c(self) -> int | None:
        """In °C."""
        degrees: int | None = self.ask("nvmlDeviceGetTemperature", _TEMPERATURE_OF_GPU)
        return degrees

    @property
    def power_w(self) -> float | None:
        """What it draws, in watts."""
        milliwatts = self.ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    @property
    def throttle_reasons(self) -> tuple[str, ...] | None:
        """What keeps its clocks from rising, in words; empty if nothing does."""
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # the name it had before release 535 of the driver
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return None if bits is None else _reasons(bits)

    def ask(self, function: str, *arguments: Any) -> Any:
        """Return what NVML says of the device, or None where it does not."""
        try:
            return getattr(self.library, function)(self.handle, *arguments)
        # NVML's errors, but also names that this release of the package has not (yet, or any more).
        except Exception:
            return None


@contextmanager
def first_gpu() -> Iterator[NvmlDevice | None]:
    """Yield the GPU that this project uses: CUDA's device 0, the only member.

    None where there is no GPU, or no ``nvidia-ml-py`` to ask it.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or a driver that it does not fit
        yield None
        return
    try:
        yield _device_0(pynvml)
    finally:
        # NVML counts its users: whoever else in this process uses it goes on.
        with suppress(Exception):
            pynvml.nvmlShutdown()


def _device_0(library: Any) -> NvmlDevice | None:
    # NVML numbers all GPUs; CUDA numbers those that this variable leaves visible.  GPUs of
    # different speed in one machine may still be ordered otherwise, unless CUDA_DEVICE_ORDER is
    # PCI_BUS_ID.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    try:
        if visible.startswith(("GPU-", "MIG-")):
            return NvmlDevice(library, library.nvmlDeviceGetHandleByUUID(visible))
        # "-1" and nothing hide all of them.
        if not visible.isdecimal():
            return None
        return NvmlDevice(library, library.nvmlDeviceGetHandleByIndex(int(visible)))
    except Exception:  # there is no such GPU
        return None


def _reasons(bits: int) -> tuple[str, ...]:
    known = [word for bit, word in _CLOCK_REASONS.items() if bits & bit]
    unknown = bits & ~(_GPU_IDLE | sum(_CLOCK_REASONS))
    return (*known, f"reason {unknown:#x}") if unknown else tuple(known)
