"""What each backend costs before its first mask, one process after the other, with a bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import counter

if TYPE_CHECKING:
    from fcn_deploy.core.run import Run
    from fcn_deploy.core.spec import Precision
    from fcn_deploy.results.conditions import ColdStart
    from fcn_deploy.runners.base import Runner


#: Seconds that a backend may take to its first mask, in a process of its own.
COLD_START_LIMIT_S = 300


def cold_starts(
    source: Run,
    files: Mapping[Runner, Precision],
    device: str,
    threads: int,
    batches: Sequence[int],
    sizes: Sequence[tuple[int, int]],
) -> tuple[ColdStart, ...]:
    """Start every backend in a process of its own, and say what that takes.

    Args:
        source: the run.
        files: open runner → precision of the file that it was opened on; what it computes in may
            be another one, as ``openvino-bf16`` does.
        device: where PyTorch runs.
        threads: CPU threads.
        batches: pictures per query that are measured; memory is that of the most of them,
        sizes: at the largest (height, width) in pixels; the first mask is of one of the first.
    """
    from fcn_deploy.bench.cold_start import ColdStartPlan, measure_cold_start
    from fcn_deploy.runners.base import find_backend

    found = []
    with counter("cold starts", len(files)) as step:
        for runner, precision in files.items():
            description = runner.describe()
            backend = find_backend(description.backend)
            plan = ColdStartPlan(
                run=source,
                runner=description,
                precision=precision,
                threads=threads,
                device=backend.device_of(device),
                size=sizes[0],
                largest=(max(batches), *max(sizes, key=lambda size: size[0] * size[1])),
                timeout_s=COLD_START_LIMIT_S,
            )
            start = measure_cold_start(plan)
            built = backend.build_seconds(Path(description.file))
            found.append(replace(start, build_seconds=built))
            step()
    return tuple(found)
