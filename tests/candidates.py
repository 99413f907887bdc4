"""Runners as candidates of a comparison."""

import copy
from collections.abc import Iterable

from fcn_deploy.parity.candidate import Candidate
from fcn_deploy.runners.base import Runner


def as_candidate(runner: Runner, shipped: Runner | None = None) -> Candidate:
    """Return a candidate that ships as it is compared, or as another runner."""
    # A copy of its own: what is opened to be streamed is closed after that.
    return Candidate(runner, lambda: copy.copy(shipped or runner))


def as_candidates(runners: Iterable[Runner]) -> list[Candidate]:
    """Return candidates that ship as they are compared."""
    return [as_candidate(runner) for runner in runners]
