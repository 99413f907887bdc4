"""Writes a model repository: all of it or nothing.

DIR/
  README.md, compose.yaml
  MODEL/
    config.pbtxt, labels.txt
    1/model.onnx                       or model.plan with model.plan.json
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_error
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.triton.config import LABELS_FILE, config_text, require_name
from fcn_deploy.triton.containers import compose_text
from fcn_deploy.triton.model import ServedModel
from fcn_deploy.triton.readme import readme_text

README_FILE, COMPOSE_FILE, CONFIG_FILE = "README.md", "compose.yaml", "config.pbtxt"
_VERSION = "1"


@dataclass(frozen=True)
class Packaged:
    """What was written.

    Attributes:
        name: of the model.
        max_batch: Triton's ``max_batch_size``; 0: one N alone is taken.
        warm_up: batches (N, H, W) that are run before the first request.
    """

    name: str
    max_batch: int
    warm_up: tuple[BatchShape, ...]


def write_repository(
    model: ServedModel,
    target: Path,
    *,
    name: str,
    max_batch: int | None = None,
    overwrite: bool = False,
) -> Packaged:
    """Write a model repository into a new or empty folder.

    Args:
        model: what is served.
        target: the folder.
        name: of the model.
        max_batch: see :meth:`ServedModel.batch_limit`.
        overwrite: whether an older repository that was written here may be replaced.

    Raises:
        InputError: the name cannot be a model's, or the model takes no such batches.
        ArtifactError: the folder holds something, or cannot be written.
    """
    require_name(name, taken=(README_FILE, COMPOSE_FILE))
    limit = model.batch_limit(max_batch)
    _require_free(target, overwrite=overwrite)
    # Resolved: `.` has no name that something could lie beside.
    place = target.resolve()
    aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    older = aside.with_name(f"{aside.name}.old")
    try:
        aside.mkdir(parents=True)
        _fill(aside, model, name, limit)
        if place.exists():
            os.replace(place, older)
        os.replace(aside, place)
    except OSError as error:
        raise write_error(target, error, flags="--out") from error
    finally:
        if older.exists() and not place.exists():
            os.replace(older, place)
        for leftover in (aside, older):
            shutil.rmtree(leftover, ignore_errors=True)
    return Packaged(name, limit, model.warm_up_shapes(limit))


def _fill(folder: Path, model: ServedModel, name: str, max_batch: int) -> None:
    version = folder / name / _VERSION
    version.mkdir(parents=True)
    model.copy_to(version)
    labels = "".join(f"{' '.join(label.split())}\n" for label in model.spec.class_names)
    texts = {
        f"{name}/{CONFIG_FILE}": config_text(name, model, max_batch),
        f"{name}/{LABELS_FILE}": labels,
        COMPOSE_FILE: compose_text(model),
        README_FILE: readme_text(name, model, max_batch),
    }
    for place, text in texts.items():
        (folder / place).write_text(text, encoding="utf-8", newline="\n")


def _require_free(target: Path, *, overwrite: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not _is_ours(target):
        raise ArtifactError(
            f"{target} holds something else than a repository that was written here",
            "name a new folder with --out",
        )
    if not overwrite:
        raise ArtifactError(
            f"{target} holds a repository already",
            "name a new folder with --out, or replace it with --overwrite",
        )


def _is_ours(target: Path) -> bool:
    """Whether a folder holds what is written here and nothing besides."""
    if not target.is_dir():
        return False
    names = {path.name for path in target.iterdir()}
    models = names - {README_FILE, COMPOSE_FILE}
    return (
        {README_FILE, COMPOSE_FILE} < names
        and len(models) == 1
        and (target / models.pop() / CONFIG_FILE).is_file()
    )
