"""What was typed behind `bench`, and the name of the file that its result goes into."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcn_deploy.commands.shared.runs import result_name
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.scenarios import SINGLE_STREAM

#: What ``--quick`` makes of the options that were not typed.
QUICK: dict[str, Any] = {"repeats": 3, "seconds": 0.2, "clock": "loop", "cold_start": False}
#: What to type instead of a long measurement.
QUICKER = "for a quick look: --quick, fewer --backend, or one --tier"
#: Share by which a row may be slower than in the older result.
MAX_SLOWDOWN = 0.1


@dataclass(frozen=True)
class BenchOptions:
    """What was typed; the fields are the options of `bench`."""

    run: str | None
    backends: tuple[str, ...]
    fp32: bool
    fp16: bool
    int8: bool
    scenario_name: str
    target_p99_ms: float | None
    clock: str
    tiers: tuple[str, ...]
    batches: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    repeats: int
    seconds: float
    images: Path | None
    cold_start: bool
    quick: bool
    order_seed: int | None
    json_file: Path | None
    older: Path | None
    max_slowdown: float | None
    device: str
    threads: int | None
    trust: bool

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that were typed; float32 alone without any."""
        asked = {Precision.FP32: self.fp32, Precision.FP16: self.fp16, Precision.INT8: self.int8}
        return tuple(one for one, typed in asked.items() if typed) or (Precision.FP32,)

    def as_quick_look(self, typed: Container[str]) -> BenchOptions:
        """Return the options with ``QUICK`` for all that were not typed."""
        changes = {name: value for name, value in QUICK.items() if name not in typed}
        if self.scenario_name != SINGLE_STREAM:
            changes.pop("clock", None)  # LoadGen alone can ask so
        return replace(self, **changes)

    def result_file(self, run: Run, typed: Container[str]) -> Path:
        """Return where the result goes: named, or by what was typed, so that none is replaced."""
        return self.json_file or run.bench_folder / result_name(
            "-".join(self.backends) or "all",
            "-".join(precision.value for precision in self.precisions),
            "-".join(f"{h}x{w}" for h, w in self.sizes),
            "b" + "-".join(map(str, self.batches)),
            None if self.scenario_name == SINGLE_STREAM else self.scenario_name,
            f"p99-{self.target_p99_ms:g}ms" if self.target_p99_ms is not None else None,
            "quick" if self.quick else None,
            self.clock if "clock" in typed else None,
            "-".join(self.tiers),
            f"t{self.threads}" if self.threads is not None else None,
            self.device if self.device != "auto" else None,
            self.images,
        )
