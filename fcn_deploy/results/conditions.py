"""What stands beside a figure: what the machine was doing, what a GPU said, a cold start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Record, read_fields
from fcn_deploy.results.runner import RunnerDescription

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Sensor(Record):
    """What a GPU said of itself at one moment; None where it did not.

    Attributes:
        name: as NVIDIA names it.
        sm_clock_mhz: clock of the multiprocessors, in MHz.
        memory_clock_mhz: clock of its memory, in MHz.
        temperature_c: in °C.
        power_w: what it draws, in watts.
        throttle_reasons: what keeps its clocks from rising, in words; empty if nothing does.
    """

    name: str | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttle_reasons: tuple[str, ...] | None


@dataclass(frozen=True)
class Conditions(Record):
    """What the machine was doing while it was measured; None where it is not known.

    Attributes:
        threads: CPU threads that every runner was pinned to.
        load_before: load average of the minute before.
        load_after: and of the last one.
        steal_share: of the CPU's time that the host gave to others, 0 to 1.
        others_share: of the machine's CPU time, what other programs took, 0 to 1.
        gpu_before: readings of the GPU before the first figure; empty without one.
        gpu_after: and right after the last.
        warnings: why to doubt the figures, as sentences.
    """

    threads: int
    load_before: float | None = None
    load_after: float | None = None
    steal_share: float | None = None
    others_share: float | None = None
    gpu_before: tuple[Sensor, ...] = ()
    gpu_after: tuple[Sensor, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColdStart(Record):
    """What a backend costs before its first figure, in a process of its own.

    Figures are None where they are not known: all of them where the process gave no mask.

    Attributes:
        size: (height, width) in pixels of the first picture.
        largest: (N, height, width) of the batches after it, which memory must be there for.
        cold_start_ms: from just before the process was started to its first mask, in ms.
        open_ms: of that, opening the runner: importing its libraries, reading the file, preparing.
        first_run_ms: of that, the first picture.
        peak_rss_mib: most host memory that the process ever held, in MiB; None on Windows.
        device_memory_mib: GPU memory that the process holds at the end, its CUDA context included,
            in MiB; None for a runner on the CPU.
        build_seconds: building the engine beforehand, where one is built.
        error: why there are no figures, in one line, or None.
    """

    runner: RunnerDescription
    size: tuple[int, int]
    largest: tuple[int, int, int]
    cold_start_ms: float | None = None
    open_ms: float | None = None
    first_run_ms: float | None = None
    peak_rss_mib: float | None = None
    device_memory_mib: float | None = None
    build_seconds: float | None = None
    error: str | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        largest = tuple(map(int, fields.numbers("largest", 3)))
        return cls(**read_fields(cls, fields, largest=largest))
