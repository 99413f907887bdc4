"""The RUN argument of a command, a bundle too, as a Run, and the names of result files in it."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.run import BUNDLE_SUFFIX, Run

if TYPE_CHECKING:
    from fcn_deploy.data.sources import DataSource


def run_from_argument(run: str | Path | None, trust: bool = False) -> Run:
    """Return the run or the bundle that was named.

    A bundle is taken out into the user's cache, once, and checked by its digests.

    Args:
        run: what was typed; None: the default run.
        trust: let an engine load that has no sidecar, or that came in the bundle.

    Raises:
        FcnDeployError: there is none, or the bundle is damaged.
    """
    if run is not None and is_bundle(run):
        from fcn_deploy.bundle.cache import open_bundle

        return open_bundle(Path(run), trusted=trust)
    return dataclasses.replace(Run.from_argument(run), trusted=trust)


def is_bundle(argument: str | Path) -> bool:
    """Say whether a RUN argument names a bundle; it may not be there."""
    path = Path(argument)
    return path.name.endswith(BUNDLE_SUFFIX) and not path.is_dir()


def result_name(*parts: object) -> str:
    """Return a file name for a result, so that one of other inputs never replaces it."""
    words = [str(part.name if isinstance(part, Path) else part) for part in parts if part]
    return ".".join(words) + ".json"


def trained_on(source: Run, repair: str) -> DataSource:
    """Return what the run was trained on.

    Args:
        source: the run.
        repair: what the user may name instead.

    Raises:
        MissingStageError: the run has no training figures.
        ArtifactError: they are damaged.
        InputError: they name no data, or data that is not there any more.
    """
    from fcn_deploy.data.sources import DataSource
    from fcn_deploy.results.read import read_training

    training = read_training(source, repair)
    recorded = training.data_argument
    if recorded is None:
        raise InputError(f"{source.metrics} does not say what it was trained on", repair)
    if recorded != "synthetic" and not Path(recorded).is_dir():
        raise InputError(f"the data of {source.metrics}, {recorded}, is not there", repair)
    return DataSource(recorded, training.held_out)


def labelled_data(source: Run, data: str | None, held_out: float | None, repair: str) -> DataSource:
    """Return the data that was typed, or that of the training.

    Args:
        source: the run.
        data: what was typed after ``--data``.
        held_out: and after ``--split``; of the data of the training, the training's share is taken
            where none was typed: with another, images of its training would be in ``val``.
        repair: what the user may name where nothing was typed.

    Raises:
        FcnDeployError: see :func:`trained_on`.
    """
    from fcn_deploy.data.sources import DataSource

    if data is None:
        known = trained_on(source, repair)
        return known if held_out is None else DataSource(known.place, held_out)
    if held_out is None and data != "synthetic":
        with suppress(FcnDeployError):  # what was typed is enough
            known = trained_on(source, repair)
            if Path(known.place) == Path(data).resolve():
                return DataSource(data, known.held_out)
    return DataSource(data, held_out)
