"""What a device file holds: TensorRT's time on the GPU alone, copies, streams and layers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import read_fields
from fcn_deploy.results.runner import RunnerDescription

DEVICE_SCHEMA = 2
#: Computing alone, by launches of its graph in a row: without the host's time to make a launch.
LAUNCHES = "launches"
#: Computing one batch; the copies alone; streams from pinned and from ordinary memory.
DEVICE, BUS, PINNED, HOST = "device", "bus", "pinned", "host"


@dataclass(frozen=True)
class BatchTiming:
    """How long a batch takes, repeat by repeat.

    Attributes:
        repeats_ms: milliseconds of each repeat.
        median_ms: their median.
        images_per_s: the rate at the median.
        further: other figures of this timing by name, e.g. ``of_floor`` or ``in_gb_per_s``.
    """

    repeats_ms: tuple[float, ...]
    median_ms: float
    images_per_s: float
    further: Mapping[str, float]

    @classmethod
    def of_repeats(cls, seconds: Sequence[float], images: int) -> BatchTiming:
        """Return the timing of a batch of ``images`` from the seconds of each repeat."""
        median = statistics.median(seconds)
        return cls(tuple(1000 * spent for spent in seconds), 1000 * median, images / median, {})

    def with_figures(self, **figures: float) -> BatchTiming:
        """Return the timing with further figures."""
        return replace(self, further={**self.further, **figures})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "repeats_ms": list(self.repeats_ms),
            "median_ms": self.median_ms,
            "images_per_s": self.images_per_s,
            **self.further,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> BatchTiming:
        """Read what :meth:`to_json` wrote."""
        own = {"repeats_ms", "median_ms", "images_per_s"}
        return cls(
            repeats_ms=fields.positives("repeats_ms"),
            median_ms=fields.positive("median_ms"),
            images_per_s=fields.positive("images_per_s"),
            further={name: fields.positive(name) for name in fields.values if name not in own},
        )


@dataclass(frozen=True)
class DeviceRow:
    """What one engine gives for one batch shape.

    Attributes:
        batch_size: pictures at once.
        size: (height, width) in pixels.
        timings: what was timed → how long it takes; ``device`` is computing one batch, recorded as
            a graph, by the device's events, ``launches`` the same by many launches in a row,
            ``pinned`` a batch of a stream from and to pinned memory.
            Of a row that ends early, those that were taken before.
        layers: (name, ms) by TensorRT's profiler, the slowest first.
        memory_mib: GPU memory in use after the row, beyond what was in use before the engine.
        error: why the row ends early, or None.
    """

    batch_size: int
    size: tuple[int, int]
    timings: Mapping[str, BatchTiming]
    layers: tuple[tuple[str, float], ...] = ()
    memory_mib: int = 0
    error: str | None = None

    @property
    def device_ms(self) -> float | None:
        """Computing one batch, by the device's events; None where it was not measured."""
        return self._median_ms(DEVICE)

    @property
    def launches_ms(self) -> float | None:
        """One launch of many in a row, or None where that was not measured."""
        return self._median_ms(LAUNCHES)

    @property
    def alone_ms(self) -> float | None:
        """Computing alone: by launches in a row, or by single ones where only these were timed."""
        return self.device_ms if self.launches_ms is None else self.launches_ms

    @property
    def pinned_ms(self) -> float | None:
        """A batch of a stream from and to pinned memory; None where it was not measured."""
        return self._median_ms(PINNED)

    @property
    def of_floor(self) -> float | None:
        """Share that the stream reaches of what the slower of bus and launches allows, or None."""
        return self.timings[PINNED].further.get("of_floor") if PINNED in self.timings else None

    def _median_ms(self, name: str) -> float | None:
        return self.timings[name].median_ms if name in self.timings else None

    @property
    def layers_ms(self) -> float:
        """All layers together; the profiler between them makes it more than ``device_ms``."""
        return sum(ms for _name, ms in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        layers = [{"name": name, "ms": ms} for name, ms in self.layers]
        return {
            "batch": self.batch_size,
            "size": list(self.size),
            **{name: timing.to_json() for name, timing in self.timings.items()},
            **({"layers": layers} if layers else {}),
            **({} if self.error is None else {"error": self.error}),
            "memory_mib": self.memory_mib,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> DeviceRow:
        """Read the row of a shape: all of it, or what was measured before an error."""
        error = fields.text_or_none("error")
        names = [name for name, value in fields.values.items() if isinstance(value, dict)]
        if error is None:
            fields.child(PINNED).positive("of_floor")
            names = [*dict.fromkeys((DEVICE, PINNED, *names))]
        layers = fields.children("layers") if error is None or "layers" in fields.values else []
        return cls(
            batch_size=fields.non_negative_int("batch"),
            size=fields.size("size"),
            timings={name: BatchTiming.from_fields(fields.child(name)) for name in names},
            layers=tuple((layer.text("name"), layer.number("ms")) for layer in layers),
            memory_mib=fields.non_negative_int("memory_mib"),
            error=error,
        )


@dataclass(frozen=True)
class DeviceTier:
    """One engine on its device, out of a file of ``benchmarks/gpu/device_tier.py``.

    Attributes:
        environment: machine, versions and time.
        runner: the engine.
        rows: one per batch shape.
        gpu: property of the GPU → value.
        memory_after_open_mib: GPU memory that the opened engine takes.
        leak: GPU memory after many runs of recurring shapes, or None where that was not measured.
    """

    environment: Environment
    runner: RunnerDescription
    rows: tuple[DeviceRow, ...]
    gpu: Mapping[str, Any]
    memory_after_open_mib: int
    leak: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the whole document of a device file."""
        return {
            **self.environment.to_json("device", DEVICE_SCHEMA),
            "gpu": dict(self.gpu),
            "rows": [row.to_json() for row in self.rows],
            "runner": self.runner.to_json(),
            "memory_after_open_mib": self.memory_after_open_mib,
            **({} if self.leak is None else {"leak": dict(self.leak)}),
        }

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> DeviceTier:
        """Read what :meth:`to_json` wrote; rows of which nothing was measured are left out."""
        rows = map(DeviceRow.from_fields, fields.children("rows"))
        read = read_fields(
            cls,
            fields,
            environment=environment,
            rows=tuple(row for row in rows if row.timings or row.layers),
            gpu=dict(fields.child("gpu").values),
            leak=_leak(fields.child("leak")) if "leak" in fields.values else None,
        )
        return cls(**read)


def _leak(fields: Fields) -> dict[str, Any]:
    used = fields.child("memory_in_use_mib_after")
    for runs in used.values:
        used.non_negative_int(runs)
        if not runs.isdecimal():
            raise used.wrong(runs, "named by a number of runs")
    return dict(fields.values)
