"""Sensors, cold starts, warnings beside a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription


@dataclass(frozen=True)
class Sensor:
    """What a GPU said of itself; None where it did not.

    Attributes:
        throttle_reasons: what held its clocks back, in words.
    """

    name: str | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    temperature_c: float | None
    power_w: float | None
    throttle_reasons: tuple[str, ...] | None


@dataclass(frozen=True)
class Conditions:
    """What the machine was doing while it was measured.

    Attributes:
        threads: CPU threads that every runner was pinned to.
        load_before: load average of the minute before.
        load_after: and of the last one.
        steal_share: of the CPU's time that the host gave to others, 0 to 1.
        others_share: of the machine's CPU time, what other programs took, 0 to 1.
        warnings: why to doubt the figures, as sentences.
    """

    threads: int
    load_before: float | None
    load_after: float | None
    steal_share: float | None
    others_share: float | None
    gpu_before: tuple[Sensor, ...]
    gpu_after: tuple[Sensor, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ColdStart:
    """What a backend costs before its first figure; None where it is not known.

    Attributes:
        size: (height, width) in pixels of the first picture.
        largest: (N, height, width) of the batches after it, whose memory is told.
        cold_start_ms: from the start of a process to its first mask.
        open_ms: of that, opening the runner.
        first_run_ms: of that, the first picture.
        peak_rss_mib: most host memory.
        device_memory_mib: GPU memory at the end.
        build_seconds: building the engine, where one is built.
        error: why there are no figures.
    """

    runner: RunnerDescription
    size: tuple[int, int] | None
    largest: tuple[int, int, int] | None
    cold_start_ms: float | None
    open_ms: float | None
    first_run_ms: float | None
    peak_rss_mib: float | None
    device_memory_mib: float | None
    build_seconds: float | None
    error: str | None


def conditions_from_fields(fields: Fields) -> Conditions:
    """Read the JSON of a conditions back."""
    return Conditions(
        threads=fields.whole("threads"),
        load_before=fields.number_or_none("load_before"),
        load_after=fields.number_or_none("load_after"),
        steal_share=fields.number_or_none("steal_share"),
        # Older files do not say.
        others_share=(
            fields.number_or_none("others_share") if "others_share" in fields.values else None
        ),
        gpu_before=tuple(sensor_from_fields(entry) for entry in fields.children("gpu_before")),
        gpu_after=tuple(sensor_from_fields(entry) for entry in fields.children("gpu_after")),
        warnings=fields.texts("warnings"),
    )


def sensor_from_fields(fields: Fields) -> Sensor:
    """Read the JSON of a sensor back."""
    return Sensor(
        name=fields.text_or_none("name"),
        sm_clock_mhz=fields.number_or_none("sm_clock_mhz"),
        memory_clock_mhz=fields.number_or_none("memory_clock_mhz"),
        temperature_c=fields.number_or_none("temperature_c"),
        power_w=fields.number_or_none("power_w"),
        throttle_reasons=fields.texts_or_none("throttle_reasons"),
    )


def cold_start_from_fields(fields: Fields) -> ColdStart:
    """Read the JSON of a cold start back."""
    return ColdStart(
        runner=RunnerDescription.from_fields(fields.child("runner")),
        # Older files do not say: one picture of the first size.
        size=fields.size("size") if "size" in fields.values else None,
        largest=shape_from_fields(fields, "largest") if "largest" in fields.values else None,
        cold_start_ms=fields.number_or_none("cold_start_ms"),
        open_ms=fields.number_or_none("open_ms"),
        first_run_ms=fields.number_or_none("first_run_ms"),
        peak_rss_mib=fields.number_or_none("peak_rss_mib"),
        device_memory_mib=fields.number_or_none("device_memory_mib"),
        build_seconds=fields.number_or_none("build_seconds"),
        error=fields.text_or_none("error"),
    )


def shape_from_fields(fields: Fields, name: str) -> tuple[int, int, int]:
    """Read the JSON of a shape back."""
    count, height, width = fields.numbers(name, 3)
    return int(count), int(height), int(width)
