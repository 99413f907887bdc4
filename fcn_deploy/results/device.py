"""What a device file holds: TensorRT's time on the GPU alone, copies, streams and layers."""

from __future__ import annotations

from dataclasses import dataclass

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription


@dataclass(frozen=True)
class DeviceRow:
    """What one engine gives for one batch shape.

    Attributes:
        batch_size: pictures at once.
        size: (height, width) in pixels.
        device_ms: computing one batch, recorded as a graph, by the device's events.
        pinned_ms: a batch of a stream from and to pinned memory.
        of_floor: share of what the slower of bus and device allows that this reaches.
        layers: (name, ms) by TensorRT's profiler, the slowest first.
    """

    batch_size: int
    size: tuple[int, int]
    device_ms: float
    pinned_ms: float
    of_floor: float
    layers: tuple[tuple[str, float], ...]

    @property
    def layers_ms(self) -> float:
        """All layers together; the profiler between them makes it more than ``device_ms``."""
        return sum(ms for _name, ms in self.layers)


@dataclass(frozen=True)
class DeviceTier:
    """One engine on its device, out of a file of ``benchmarks/gpu/device_tier.py``."""

    environment: Environment
    runner: RunnerDescription
    rows: tuple[DeviceRow, ...]


def device_tier_from_fields(fields: Fields, environment: Environment) -> DeviceTier:
    """Read the JSON of a device tier back."""
    measured = [entry for entry in fields.children("rows") if "error" not in entry.values]
    return DeviceTier(
        environment=environment,
        runner=RunnerDescription.from_fields(fields.child("runner")),
        rows=tuple(device_row_from_fields(entry) for entry in measured),
    )


def device_row_from_fields(fields: Fields) -> DeviceRow:
    """Read the JSON of a device row back."""
    pinned = fields.child("pinned")
    return DeviceRow(
        batch_size=fields.whole("batch"),
        size=fields.size("size"),
        device_ms=fields.child("device").positive("median_ms"),
        pinned_ms=pinned.positive("median_ms"),
        of_floor=pinned.positive("of_floor"),
        layers=tuple(
            (layer.text("name"), layer.number("ms")) for layer in fields.children("layers")
        ),
    )
