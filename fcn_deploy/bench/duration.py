"""About how long a bench will take, said before it begins."""

from __future__ import annotations

from fcn_deploy.bench.case import Case
from fcn_deploy.bench.loadgen import OFFLINE_BATCHES, OFFLINE_SAMPLES, P90_QUERIES, P99_QUERIES
from fcn_deploy.bench.measure import BenchPlan
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.results.ranking import RATE_RESOLUTION
from fcn_deploy.results.scenarios import DEVICE, OFFLINE, SERVER
from fcn_deploy.results.workload import LOOP

#: Queries of the timed loop at least, and those with which a repeat of LoadGen's begins.
_LOOP_QUERIES, _FIRST_QUERIES = 3, 5
#: Rates that a server is tried at, in the first repeat and in each further one.
_FIRST_TRIALS, _TRIALS = 6, 2


def expected_duration(plan: BenchPlan) -> tuple[int, float]:
    """Return how many rows a plan has, and in how many seconds its repeats are done, about.

    Every case is asked three queries: one that prepares it, which has to be done in any case, and
    two of which the faster one counts.  What fails is left out: the measurement will say why.
    """
    for runner in plan.runners:
        runner.reserve_shapes(plan.num_shapes())
    rows, seconds = 0, 0.0
    for case in plan.cases():
        try:
            if not case.measurable:
                continue
            case.query(0)
            query_seconds = min(case.query(number).wall for number in (1, 2))
        except FcnDeployError:
            continue
        rows += 1
        seconds += _case_seconds(plan, case, query_seconds)
    return rows, seconds


def _case_seconds(plan: BenchPlan, case: Case, query_seconds: float) -> float:
    scenario, repeats = plan.scenario, plan.repeats
    if scenario.name == SERVER:
        bound_seconds = (scenario.target_p99_ms or 0.0) / 1000
        alone = query_seconds / case.batch_size
        trial = max(plan.seconds, bound_seconds / RATE_RESOLUTION, P99_QUERIES * alone)
        return (_FIRST_TRIALS + _TRIALS * (repeats - 1)) * trial
    if case.tier == DEVICE or scenario.clock == LOOP:
        queries = _LOOP_QUERIES
    else:
        queries = P90_QUERIES
        if scenario.name == OFFLINE:
            queries = max(OFFLINE_BATCHES, -(-OFFLINE_SAMPLES // case.batch_size))
    return repeats * (max(plan.seconds, queries * query_seconds) + _FIRST_QUERIES * query_seconds)


def duration_sentence(plan: BenchPlan, cold_starts: bool) -> str:
    """Return how many rows and repeats come, and how long they will take.

    Args:
        plan: of the measurement; every case of it is asked a few queries.
        cold_starts: whether these are measured before it.
    """
    rows, seconds = expected_duration(plan)
    words = f"{rows} row{'' if rows == 1 else 's'} × {plan.repeats} interleaved repeats: "
    return f"{words}{duration_words(seconds)}{', after the cold starts' if cold_starts else ''}"


def duration_words(seconds: float) -> str:
    """Return a duration in words, no finer than it is known."""
    if seconds < 90:
        return f"about {max(10, 10 * round(seconds / 10))} seconds"
    return f"about {round(seconds / 60)} minutes"
