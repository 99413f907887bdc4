"""The run that was named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.run import Run


def run_from_argument(run: str | None, trust: bool) -> Run:
    """Return the run that was named; ``trust`` lets its engine load without a sidecar."""
    return dataclasses.replace(Run.from_argument(run), trusted=trust)


def result_name(*parts: object) -> str:
    """Return a file name for a result, so that one of other inputs never replaces it."""
    words = [str(part.name if isinstance(part, Path) else part) for part in parts if part]
    return ".".join(words) + ".json"


def trained_on(source: Run, repair: str) -> str:
    """Return what the run was trained on, for :func:`fcn_deploy.dataset.open_dataset`.

    Args:
        source: the run.
        repair: what the user may name instead.

    Raises:
        MissingStageError: the run has no training figures.
        InputError: they name no data, or data that is not there any more.
    """
    from fcn_deploy.core.files import read_json

    recorded = read_json(source.metrics, repair).get("data_argument")
    if not isinstance(recorded, str):
        raise InputError(f"{source.metrics} does not say what it was trained on", repair)
    if recorded != "synthetic" and not Path(recorded).is_dir():
        raise InputError(f"the data of {source.metrics}, {recorded}, is not there", repair)
    return recorded
