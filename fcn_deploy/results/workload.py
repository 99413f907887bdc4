"""Which bench rows may be compared.

    same workload?   no ─▶ never ranked
                    yes ─▶ the interval of their paired ratios decides: fcn_deploy.results.ratio

Rows of one run have the machine, and the threads that it was pinned to, in common.  Two runs must
also agree in these and in the model file: see ``fcn_deploy.bench.regression``.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Who took the times, as result files call it.
LOADGEN, LOOP = "loadgen", "timed loop"


@dataclass(frozen=True)
class Workload:
    """What a runner was asked: only rows of the same workload may be ranked.

    Attributes:
        scenario: who asks, and when.
        target_p99_ms: bound of the server scenario, in milliseconds; None in the others.
        clock: ``LOADGEN`` or ``LOOP``.
        tier: what is in the time.
        batch_size: pictures per query.
        size: (height, width) in pixels.
        inputs_digest: of the pictures.
    """

    scenario: str
    target_p99_ms: float | None
    clock: str
    tier: str
    batch_size: int
    size: tuple[int, int]
    inputs_digest: str
