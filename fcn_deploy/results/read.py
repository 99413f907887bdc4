"""Result files → what they say, as values: the one reader of our own JSON.

    metrics.json  kind train  ─┐                  ┌─ trainings
    parity/*.json      parity ─┤   read_results   ├─ parity files
    bench/*.json       bench  ─┼── read_files ──▶ Results ─┼─ benches
    bisect/*.json      bisect ─┤                  ├─ bisect files
    evaluate/*.json  evaluate ─┤                  ├─ evaluations
    files by name      device ─┤                  ├─ devices
    preview.png               ─┘                  └─ preview

Figures are read, never computed anew.  A result file may come from another machine or from a
person's editor: whatever is missing or wrong in it is an `ArtifactError` that names file, place
and repair.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError, InputError, MissingStageError
from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.run import Run
from fcn_deploy.results.bench import SCHEMA as BENCH_SCHEMA
from fcn_deploy.results.bench import Bench
from fcn_deploy.results.bisect import BISECT_SCHEMA, BisectFile
from fcn_deploy.results.device import DEVICE_SCHEMA, DeviceTier
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.evaluation import EVALUATION_SCHEMA, EvaluationFile
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.parity import PARITY_SCHEMA, ParityFile
from fcn_deploy.results.results import Results
from fcn_deploy.results.training import TRAIN_SCHEMA, Training


@dataclass(frozen=True)
class _Kind:
    """What is known of the result files of one kind.

    Attributes:
        schema: that this version reads.
        read: what makes a value of a file's content.
        place: of that value in :class:`Results`.
        command: that writes such a file, with a place for its RUN argument.
    """

    schema: int
    read: Callable[[Fields, Environment], Any]
    place: str
    command: str


_KINDS = {
    "train": _Kind(TRAIN_SCHEMA, Training.from_fields, "trainings", "fcn-deploy train{}"),
    "parity": _Kind(PARITY_SCHEMA, ParityFile.from_fields, "parity_files", "fcn-deploy parity{}"),
    "evaluate": _Kind(
        EVALUATION_SCHEMA, EvaluationFile.from_fields, "evaluations", "fcn-deploy evaluate{}"
    ),
    "bench": _Kind(BENCH_SCHEMA, Bench.from_fields, "benches", "fcn-deploy bench{}"),
    "bisect": _Kind(
        BISECT_SCHEMA, BisectFile.from_fields, "bisect_files", "fcn-deploy parity{} --bisect"
    ),
    "device": _Kind(
        DEVICE_SCHEMA, DeviceTier.from_fields, "devices", "python benchmarks/gpu/device_tier.py{}"
    ),
}
#: Kind → schema of the result files that this version reads.
SCHEMAS = {name: kind.schema for name, kind in _KINDS.items()}
#: Kind of the files in which `parity` saves what one runner gave; they hold no result yet.
OUTPUTS = "outputs"


def read_results(run: Run, *, or_nothing: bool = False) -> Results:
    """Read what there is of a run.

    Raises:
        MissingStageError: there is nothing at all, and not ``or_nothing``.
        ArtifactError: a file is damaged, foreign, or of another schema.
    """
    argument, out = run.command_suffix, run.out_option
    found = _Found()
    if run.metrics.exists():
        again = f"train again with `fcn-deploy train{out} --overwrite`, or delete the file"
        found.add(_opened(run.metrics, again), "train", _below(run, run.metrics))
    roots = dict.fromkeys((run.root, run.results_root))  # a bundle's own, and those made here
    for kind in ("parity", "evaluate", "bench", "bisect"):
        for path in (path for root in roots for path in _result_files(root / kind)):
            usual = _KINDS[kind].command.format(argument)
            fields = _opened(path, f"run `{usual}` again, or delete it")
            again = f"run `{_same_again(kind, argument, fields.values)}` again, or delete it"
            fields = Fields(fields.values, path, again)
            if fields.values.get("kind") != OUTPUTS:
                found.add(fields, kind, _below(run, path))
    preview = run.preview if run.preview.is_file() else None
    if found.empty and preview is None and not or_nothing:
        raise MissingStageError(
            f"nothing to report in {run.shown}", f"run `fcn-deploy train{out}` first"
        )
    return found.results(
        name=str(run.shown) if run.shown.name else run.shown.resolve().name,
        run_argument=argument,
        out_option=out,
        preview=preview,
        checkpoint_digest=file_digest(run.checkpoint) if run.checkpoint.is_file() else None,
    )


@dataclass(frozen=True)
class Proofs:
    """What says which backends give the reference's masks, and how fast they are.

    Attributes:
        parity_files: newest last.
        benches: newest last.
        unread: a line for each file that could not be read: damaged, or of another schema.
    """

    parity_files: tuple[ParityFile, ...]
    benches: tuple[Bench, ...]
    unread: tuple[str, ...]


def read_proofs(run: Run) -> Proofs:
    """Read a run's results of `parity` and `bench`; those that cannot be read prove nothing."""
    found, unread = _Found(), []
    for kind, folder in (("parity", run.parity_folder), ("bench", run.bench_folder)):
        for path in _result_files(folder):
            try:
                fields = _opened(path, "make it anew, or delete it")
                if fields.values.get("kind") != OUTPUTS:
                    found.add(fields, kind, _below(run, path))
            except ArtifactError as error:
                unread.append(str(error))
    return Proofs(found.newest_last("parity_files"), found.newest_last("benches"), tuple(unread))


def read_training(run: Run, repair: str) -> Training:
    """Read the training of a run.

    Args:
        run: whose ``metrics.json`` is read.
        repair: what the user should do where there is none, or where it cannot be used.

    Raises:
        MissingStageError: there is none: the run was not trained here.
        ArtifactError: the file is damaged, foreign, or of another schema.
    """
    fields = _opened(run.metrics, repair)
    return Training.from_fields(fields, _environment(fields, "train", run.metrics.name))


def read_files(paths: Sequence[Path]) -> Results:
    """Read result files of any kinds, machines and runs; the same content counts once.

    Raises:
        InputError: there are none.
        ArtifactError: a file is damaged, foreign, of another schema, or holds no result.
    """
    if not paths:
        raise InputError("no result files to read", "name some, e.g. runs/fcn/bench/all.json")
    found, seen, names = _Found(), set(), []
    for path in paths:
        digest = file_digest(path)
        if digest in seen:
            continue
        seen.add(digest)
        names.append(str(path))
        fields = _opened(path, "make it anew, or leave it out")
        kind = fields.values.get("kind")
        if kind == OUTPUTS:
            raise ArtifactError(
                f"{path} holds what one runner gave, and no comparison",
                "compare two of them with `fcn-deploy parity REF.json CAND.json`, and report that",
            )
        if not isinstance(kind, str) or kind not in SCHEMAS:
            raise ArtifactError(
                f"{path} is not a result of fcn-deploy",
                f"name files of the kinds {', '.join(SCHEMAS)}",
            )
        again = f"run `{_KINDS[kind].command.format('')}` again, or leave it out"
        found.add(Fields(fields.values, path, again), kind, str(path))
    count = "1 result file" if len(names) == 1 else f"{len(names)} result files"
    return found.results(name=count, files=tuple(names))


def _same_again(kind: str, argument: str, values: Mapping[str, Any]) -> str:
    """Return the command that writes a result under the same name: with the options it tells."""
    options = values.get("options")
    told = isinstance(options, list) and all(
        isinstance(word, str) and word.isprintable() for word in options
    )
    if not told or not options:
        return _KINDS[kind].command.format(argument)
    verb = kind if kind in ("bench", "evaluate") else "parity"  # `--bisect` is an option of it
    return f"fcn-deploy {verb}{argument} {shlex.join(options)}"


def _below(run: Run, path: Path) -> str:
    if path.is_relative_to(run.root):
        return path.relative_to(run.root).as_posix()
    return path.as_posix()  # beside a bundle, which has files of these names itself


def _result_files(folder: Path) -> list[Path]:
    # A name with a dot in front is a file that another command is just writing.
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _opened(path: Path, repair: str) -> Fields:
    return Fields(read_json(path, repair), path, repair)


class _Found:
    """What has been read so far, by its place in :class:`Results`."""

    def __init__(self) -> None:
        self._read: dict[str, list[Any]] = {}

    def add(self, fields: Fields, kind: str, name: str) -> None:
        """Read one file.

        Args:
            fields: its content.
            kind: which it has to be.
            name: how the report calls it.
        """
        value = _KINDS[kind].read(fields, _environment(fields, kind, name))
        self._read.setdefault(_KINDS[kind].place, []).append(value)

    @property
    def empty(self) -> bool:
        """Whether nothing has been read."""
        return not self._read

    def newest_last(self, place: str) -> tuple[Any, ...]:
        """Return what stands in a place, the newest last."""
        return tuple(sorted(self._read.get(place, ()), key=lambda one: one.environment.created))

    def results(self, **about: Any) -> Results:
        """Return it all."""
        about.update({place: self.newest_last(place) for place in self._read})
        return Results(**about)


def _environment(fields: Fields, kind: str, name: str) -> Environment:
    if fields.values.get("kind") != kind:
        raise ArtifactError(f"{fields.file} is not a {kind} result of fcn-deploy", fields.repair)
    schema = fields.values.get("schema")
    if schema != SCHEMAS[kind] or isinstance(schema, bool):
        raise ArtifactError(
            f"{fields.file} has schema {schema}, this version reads {SCHEMAS[kind]}", fields.repair
        )
    return Environment.from_fields(fields, name)
