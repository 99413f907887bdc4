"""What a device file holds: TensorRT's time on the GPU alone, copies, streams and layers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription

DEVICE_SCHEMA = 2
#: The timings that every measured row has: computing alone, and a stream from pinned memory.
DEVICE, PINNED = "device", "pinned"


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
            repeats_ms=fields.numbers("repeats_ms"),
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
            a graph, by the device's events, ``pinned`` a batch of a stream from and to pinned
            memory.
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
    def device_ms(self) -> float:
        """Computing one batch, by the device's events."""
        return self.timings[DEVICE].median_ms

    @property
    def pinned_ms(self) -> float:
        """A batch of a stream from and to pinned memory."""
        return self.timings[PINNED].median_ms

    @property
    def of_floor(self) -> float:
        """Share that the stream reaches of what the slower of bus and device allows."""
        return self.timings[PINNED].further["of_floor"]

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
        """Read the row of a shape that was measured to its end."""
        fields.child(PINNED).positive("of_floor")
        names = [name for name, value in fields.values.items() if isinstance(value, dict)]
        return cls(
            batch_size=fields.non_negative_int("batch"),
            size=fields.size("size"),
            timings={
                name: BatchTiming.from_fields(fields.child(name))
                for name in dict.fromkeys((DEVICE, PINNED, *names))
            },
            layers=tuple(
                (layer.text("name"), layer.number("ms")) for layer in fields.children("layers")
            ),
            memory_mib=fields.non_negative_int("memory_mib"),
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
        """Read what :meth:`to_json` wrote; rows that ended in an error are left out."""
        measured = [entry for entry in fields.children("rows") if "error" not in entry.values]
        return cls(
            environment=environment,
            runner=RunnerDescription.from_fields(fields.child("runner")),
            rows=tuple(DeviceRow.from_fields(entry) for entry in measured),
            gpu=dict(fields.child("gpu").values),
            memory_after_open_mib=fields.non_negative_int("memory_after_open_mib"),
            leak=dict(fields.child("leak").values) if "leak" in fields.values else None,
        )
