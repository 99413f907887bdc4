"""Result files → what they say, as values: the one reader of our own JSON.

    metrics.json  kind train  ─┐                  ┌─ trainings
    parity/*.json      parity ─┤   read_results   ├─ comparisons
    bench/*.json       bench  ─┼── read_files ──▶ Results ─┼─ benches
    bisect/*.json      bisect ─┤                  ├─ bisections
    files by name      device ─┤                  ├─ devices
    preview.png               ─┘                  └─ preview

Figures are read, never computed anew.  A result file may come from another machine or from a
person's editor: whatever is missing or wrong in it is an `ArtifactError` that names file, place
and repair.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fcn_deploy.bench.case import ALL_STAGES
from fcn_deploy.bench.loadgen import Settings
from fcn_deploy.core.errors import ArtifactError, InputError, MissingStageError
from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.run import DEFAULT_RUN, Run
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.results import (
    VIEWS,
    Bench,
    BenchRow,
    Bisection,
    Bucket,
    Check,
    ClassFlips,
    ColdStart,
    Comparison,
    Conditions,
    DeviceRow,
    DeviceTier,
    Environment,
    Epoch,
    Layer,
    LoadGenVerdict,
    MarginScale,
    Ratio,
    Region,
    Results,
    Scores,
    Sensor,
    Split,
    Training,
    WorstPicture,
    machine_name,
)
from fcn_deploy.runners.base import RunnerDescription

__all__ = [
    "SCHEMAS", "Bench", "BenchRow", "Comparison", "Ratio", "Results", "read_files", "read_results",
]  # fmt: skip

#: Kind → schema of the result files that this version reads.  Said again here because this room
#: stands below those that write them; a test holds it against them.
SCHEMAS = {"train": 2, "parity": 2, "bench": 2, "bisect": 1, "device": 1}
#: Kind → the command that writes it, with a place for its RUN argument.
_COMMANDS = {
    "train": "fcn-deploy train{}",
    "parity": "fcn-deploy parity{}",
    "bench": "fcn-deploy bench{}",
    "bisect": "fcn-deploy parity{} --bisect",
    "device": "python benchmarks/gpu/device_tier.py{}",
}
#: Kind of the files in which `parity` saves what one runner gave; they hold no result yet.
OUTPUTS = "outputs"
#: Whatever knows when it was made.
_Dated = TypeVar("_Dated", Training, Comparison, Bench, Bisection, DeviceTier)
#: Points of a latency distribution: 0, 1, …, 100 % of the queries.
CDF_POINTS = 101


# -- files --------------------------------------------------------------------------------------


def read_results(run: Run) -> Results:
    """Read what there is of a run.

    Raises:
        MissingStageError: there is nothing at all.
        ArtifactError: a file is damaged, foreign, or of another schema.
    """
    argument = "" if run.root == DEFAULT_RUN else f" {shlex.quote(str(run.root))}"
    out = argument and f" --out{argument}"
    found = _Found()
    if run.metrics.exists():
        again = f"train again with `fcn-deploy train{out} --overwrite`, or delete the file"
        found.add(_opened(run.metrics, again), "train", _below(run.root, run.metrics))
    for kind, folder in (
        ("parity", run.parity_folder),
        ("bench", run.bench_folder),
        ("bisect", run.bisect_folder),
    ):
        again = f"run `{_COMMANDS[kind].format(argument)}` again, or delete it"
        for path in _result_files(folder):
            fields = _opened(path, again)
            if fields.values.get("kind") != OUTPUTS:
                found.add(fields, kind, _below(run.root, path))
    preview = run.preview if run.preview.is_file() else None
    if found.empty and preview is None:
        raise MissingStageError(
            f"nothing to report in {run.root}", f"run `fcn-deploy train{out}` first"
        )
    return found.results(
        name=str(run.root) if run.root.name else run.root.resolve().name,
        run_argument=argument,
        out_option=out,
        preview=preview,
        checkpoint_digest=file_digest(run.checkpoint) if run.checkpoint.is_file() else None,
    )


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
        again = f"run `{_COMMANDS[kind].format('')}` again, or leave it out"
        found.add(Fields(fields.values, path, again), kind, str(path))
    count = "1 result file" if len(names) == 1 else f"{len(names)} result files"
    return found.results(name=count, files=tuple(names))


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _result_files(folder: Path) -> list[Path]:
    # A name with a dot in front is a file that another command is just writing.
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _opened(path: Path, repair: str) -> Fields:
    return Fields(read_json(path, repair), path, repair)


@dataclass
class _Found:
    """What has been read so far."""

    trainings: list[Training] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    bisections: list[Bisection] = field(default_factory=list)
    devices: list[DeviceTier] = field(default_factory=list)

    def add(self, fields: Fields, kind: str, name: str) -> None:
        """Read one file.

        Args:
            fields: its content.
            kind: which it has to be.
            name: how the report calls it.
        """
        environment = _environment(fields, kind, name)
        if kind == "train":
            self.trainings.append(_training(fields, environment))
        elif kind == "parity":
            entries = fields.children("results")
            self.comparisons += [_comparison(entry, environment, fields) for entry in entries]
        elif kind == "bench":
            self.benches.append(_bench(fields, environment))
        elif kind == "bisect":
            self.bisections.append(_bisection(fields, environment))
        else:
            self.devices.append(_device_tier(fields, environment))

    @property
    def empty(self) -> bool:
        """Whether nothing has been read."""
        proofs = self.comparisons or self.benches or self.bisections or self.devices
        return not (self.trainings or proofs)

    def results(self, **about: Any) -> Results:
        """Return it all, newest last."""
        return Results(
            trainings=_newest_last(self.trainings),
            comparisons=_newest_last(self.comparisons),
            benches=_newest_last(self.benches),
            bisections=_newest_last(self.bisections),
            devices=_newest_last(self.devices),
            **about,
        )


def _newest_last(found: list[_Dated]) -> tuple[_Dated, ...]:
    return tuple(sorted(found, key=lambda entry: entry.environment.created))


def _environment(fields: Fields, kind: str, name: str) -> Environment:
    if fields.values.get("kind") != kind:
        raise ArtifactError(f"{fields.file} is not a {kind} result of fcn-deploy", fields.repair)
    schema = fields.values.get("schema")
    if schema != SCHEMAS[kind] or isinstance(schema, bool):
        raise ArtifactError(
            f"{fields.file} has schema {schema}, this version reads {SCHEMAS[kind]}", fields.repair
        )
    return Environment(
        file=name,
        created=fields.text("created"),
        machine=fields.as_texts("machine"),
        versions=fields.as_texts("versions"),
    )


def _typed(fields: Fields, name: str) -> tuple[str, ...] | None:
    """Return words of the command line; None where the file does not say, as older ones do not."""
    return fields.texts_or_none(name) if name in fields.values else None


# -- training -----------------------------------------------------------------------------------


def _training(fields: Fields, environment: Environment) -> Training:
    class_names = fields.texts("class_names")
    epochs = fields.children("epochs")
    if not epochs:
        raise fields.wrong("epochs", "a list of at least one epoch")
    best_epoch = fields.whole("best_epoch")
    best = next((entry for entry in epochs if entry.whole("epoch") == best_epoch), None)
    if best is None:
        raise fields.wrong("best_epoch", "one of the epochs")
    val_iou = best.numbers_or_none("val_iou")
    if len(val_iou) != len(class_names):
        raise best.wrong("val_iou", f"one number for each of {len(class_names)} classes")
    data = fields.child("data")
    return Training(
        environment=environment,
        architecture=fields.text("architecture"),
        weights=fields.text_or_none("weights"),
        options=fields.texts("options"),
        freeze_epochs=fields.whole_or_none("freeze_epochs"),
        best_epoch=best_epoch,
        seed=fields.whole("seed"),
        device=fields.text("device"),
        recipe=fields.as_texts("recipe"),
        data_argument=fields.text_or_none("data_argument"),
        class_names=class_names,
        splits=tuple(_split(name, data.child(name)) for name in data.values),
        epochs=tuple(_epoch(entry) for entry in epochs),
        val_iou=val_iou,
    )


def _split(name: str, fields: Fields) -> Split:
    return Split(name, fields.text("source"), fields.whole("read"), fields.whole("dropped"))


def _epoch(fields: Fields) -> Epoch:
    return Epoch(
        epoch=fields.whole("epoch"),
        loss=fields.number_or_none("loss"),
        train_pixel_accuracy=fields.number_or_none("train_pixel_accuracy"),
        train_mean_iou=fields.number_or_none("train_mean_iou"),
        val_pixel_accuracy=fields.number_or_none("val_pixel_accuracy"),
        val_mean_iou=fields.number_or_none("val_mean_iou"),
        examples_per_s=fields.number_or_none("examples_per_s"),
        data_seconds=fields.number_or_none("data_seconds"),
        compute_seconds=fields.number_or_none("compute_seconds"),
        seconds=fields.number_or_none("seconds"),
    )


# -- parity -------------------------------------------------------------------------------------


def _comparison(fields: Fields, environment: Environment, whole: Fields) -> Comparison:
    images = fields.child("images")
    checks = tuple(
        Check(entry.text("name"), entry.flag("passed"), entry.text("sentence"))
        for entry in fields.children("checks")
    )
    if not checks:  # all() of nothing would pass
        raise fields.wrong("checks", "a list of at least one check")
    scores = fields.child_or_none("scores")
    class_names = fields.texts("class_names")
    return Comparison(
        environment=environment,
        reference=RunnerDescription.from_fields(fields.child("reference")),
        candidate=RunnerDescription.from_fields(fields.child("candidate")),
        reference_machine=_reference_machine(whole),
        class_names=class_names,
        palette=fields.colours("palette", len(class_names)),
        source=images.text("source"),
        count=images.whole("count"),
        pixels=images.whole("pixels"),
        images_digest=images.text("digest"),
        epsilon=fields.number_or_none("epsilon"),
        agreement=fields.number("agreement"),
        flips=fields.whole("flips"),
        widest_flip_margin=fields.number_or_none("widest_flip_margin"),
        boundary=_region(fields.child("boundary")),
        interior=_region(fields.child("interior")),
        scores=None if scores is None else _scores(scores),
        checks=checks,
        passed=fields.flag("passed") and all(check.passed for check in checks),
        by_class=tuple(
            _class_flips(entry, len(class_names)) for entry in fields.children("flips_by_class")
        ),
        by_margin=tuple(
            _bucket(entry, "from", "to") for entry in fields.children("flips_by_margin")
        ),
        by_distance=tuple(
            _bucket(entry, "from_px", "to_px") for entry in fields.children("flips_by_distance")
        ),
        diagnosis=fields.texts("diagnosis"),
        pictures=tuple(_worst_picture(entry) for entry in fields.children("pictures")),
        arguments=_typed(whole, "arguments"),
        options=_typed(whole, "options"),
    )


def _reference_machine(fields: Fields) -> str | None:
    """Return where the reference ran, if the file says that it was another machine."""
    if fields.values.get("reference_machine") is None:
        return None
    return machine_name(fields.as_texts("reference_machine"))


def _class_flips(fields: Fields, num_classes: int) -> ClassFlips:
    return ClassFlips(
        fields.index("reference", num_classes),
        fields.index("candidate", num_classes),
        fields.whole("flips"),
    )


def _bucket(fields: Fields, low: str, high: str) -> Bucket:
    return Bucket(
        pixels=fields.whole("pixels"),
        flips=fields.whole("flips"),
        low=fields.number(low),
        high=fields.number_or_none(high),
    )


def _region(fields: Fields) -> Region:
    return Region(fields.whole("pixels"), fields.whole("flips"))


def _scores(fields: Fields) -> Scores:
    worst = fields.child("worst_class")
    return Scores(
        reference_miou=fields.number_or_none("reference_miou"),
        candidate_miou=fields.number_or_none("candidate_miou"),
        worst_class=worst.text("name"),
        worst_change_points=worst.number("change_points"),
        classes=tuple(
            (
                entry.text("name"),
                entry.number_or_none("reference_iou"),
                entry.number_or_none("candidate_iou"),
            )
            for entry in fields.children("classes")
        ),
    )


def _worst_picture(fields: Fields) -> WorstPicture:
    views = fields.child("views")
    scale = fields.child_or_none("margin_scale")
    # They ride inside the file: it may come from elsewhere, and must not pull in other files.
    return WorstPicture(
        fields.text("name"),
        fields.whole("flips"),
        fields.whole("pixels"),
        {view: views.picture(view) for view in VIEWS},
        None if scale is None else _margin_scale(scale),
    )


def _margin_scale(fields: Fields) -> MarginScale:
    colours = fields.texts("colours")
    if not all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours):
        raise fields.wrong("colours", "a list of colours such as #2a788e")
    return MarginScale(fields.number("low"), fields.number("high"), colours)


# -- bench --------------------------------------------------------------------------------------


def _bench(fields: Fields, environment: Environment) -> Bench:
    inputs, clock = fields.child("inputs"), fields.child("clock")
    return Bench(
        environment=environment,
        source=inputs.text("source"),
        distinct_inputs=inputs.whole("distinct"),
        clock=clock.text("name"),
        clock_version=clock.text_or_none("version"),
        clock_reason=clock.text_or_none("reason"),
        seconds=clock.number_or_none("seconds"),
        conditions=_conditions(fields.child("conditions")),
        cold_starts=tuple(_cold_start(entry) for entry in fields.children("runners")),
        rows=tuple(_bench_row(entry) for entry in fields.children("rows")),
        options=_typed(fields, "options"),
    )


def _conditions(fields: Fields) -> Conditions:
    return Conditions(
        threads=fields.whole("threads"),
        load_before=fields.number_or_none("load_before"),
        load_after=fields.number_or_none("load_after"),
        steal_share=fields.number_or_none("steal_share"),
        # Older files do not say.
        others_share=(
            fields.number_or_none("others_share") if "others_share" in fields.values else None
        ),
        gpu_before=tuple(_sensor(entry) for entry in fields.children("gpu_before")),
        gpu_after=tuple(_sensor(entry) for entry in fields.children("gpu_after")),
        warnings=fields.texts("warnings"),
    )


def _sensor(fields: Fields) -> Sensor:
    return Sensor(
        name=fields.text_or_none("name"),
        sm_clock_mhz=fields.number_or_none("sm_clock_mhz"),
        memory_clock_mhz=fields.number_or_none("memory_clock_mhz"),
        temperature_c=fields.number_or_none("temperature_c"),
        power_w=fields.number_or_none("power_w"),
        throttle_reasons=fields.texts_or_none("throttle_reasons"),
    )


def _cold_start(fields: Fields) -> ColdStart:
    return ColdStart(
        runner=RunnerDescription.from_fields(fields.child("runner")),
        # Older files do not say: one picture of the first size.
        size=fields.size("size") if "size" in fields.values else None,
        largest=_shape(fields, "largest") if "largest" in fields.values else None,
        cold_start_ms=fields.number_or_none("cold_start_ms"),
        open_ms=fields.number_or_none("open_ms"),
        first_run_ms=fields.number_or_none("first_run_ms"),
        peak_rss_mib=fields.number_or_none("peak_rss_mib"),
        device_memory_mib=fields.number_or_none("device_memory_mib"),
        build_seconds=fields.number_or_none("build_seconds"),
        error=fields.text_or_none("error"),
    )


def _shape(fields: Fields, name: str) -> tuple[int, int, int]:
    count, height, width = fields.numbers(name, 3)
    return int(count), int(height), int(width)


def _bench_row(fields: Fields) -> BenchRow:
    low, high = fields.numbers("spread_ms", 2)
    latency = fields.child("latency_ms")
    stages = fields.child_or_none("stages_ms")
    loadgen = fields.child_or_none("loadgen")
    ratio = fields.child_or_none("speedup_over_baseline")
    return BenchRow(
        runner=RunnerDescription.from_fields(fields.child("runner")),
        scenario=fields.text("scenario"),
        tier=fields.text("tier"),
        batch_size=fields.whole("batch_size"),
        size=fields.size("size"),
        concurrency=fields.whole_or_none("concurrency"),
        inputs_digest=fields.text("inputs_digest"),
        repeats_ms=fields.numbers("repeats_ms"),
        queries=fields.whole("queries"),
        latency_ms={name: latency.number(name) for name in latency.values},
        cdf_ms=fields.sequence_or_none("cdf_ms", CDF_POINTS),
        median_ms=fields.positive("median_ms"),
        low_ms=low,
        high_ms=high,
        cv=fields.number("cv"),
        images_per_s=fields.positive("images_per_s"),
        stages_ms=None if stages is None else {name: stages.number(name) for name in ALL_STAGES},
        wall_ms=fields.number_or_none("wall_ms"),
        loadgen=None if loadgen is None else _loadgen(loadgen),
        energy_j_per_image=fields.number_or_none("energy_j_per_image"),
        over_baseline=None if ratio is None else _ratio(ratio),
    )


def _loadgen(fields: Fields) -> LoadGenVerdict:
    # Older files do not say.
    settings = fields.child_or_none("settings") if "settings" in fields.values else None
    return LoadGenVerdict(
        fields.flag("valid"),
        fields.number_or_none("early_stopping_ms"),
        fields.number_or_none("target_p99_ms"),
        fields.texts("problems"),
        None if settings is None else _settings(settings),
    )


def _settings(fields: Fields) -> Settings:
    return Settings(
        fields.number("min_seconds"),
        fields.whole("min_queries"),
        fields.whole("distinct_samples"),
    )


def _ratio(fields: Fields) -> Ratio:
    return Ratio(
        fields.positive("median"),
        fields.positive("low"),
        fields.positive("high"),
        fields.flag("tie"),
    )


# -- bisect -------------------------------------------------------------------------------------


def _bisection(fields: Fields, environment: Environment) -> Bisection:
    reference, candidate = fields.child("reference"), fields.child("candidate")
    images = fields.child("images")
    layers = tuple(_layer(entry) for entry in fields.children("layers"))
    if not layers:
        raise fields.wrong("layers", "a list of at least one layer")
    return Bisection(
        environment=environment,
        reference_file=reference.text("file"),
        reference_digest=reference.text("digest"),
        reference_precision=reference.text("precision"),
        candidate_file=candidate.text("file"),
        candidate_digest=candidate.text("digest"),
        candidate_precision=candidate.text("precision"),
        source=images.text("source"),
        count=images.whole("count"),
        tolerance=fields.positive("tolerance"),
        layers=layers,
        arguments=_typed(fields, "arguments"),
        options=_typed(fields, "options"),
    )


def _layer(fields: Fields) -> Layer:
    return Layer(
        name=fields.text("name"),
        operator=fields.text("operator"),
        shape=fields.wholes("shape"),
        scale=fields.number_or_none("scale"),
        max_error=fields.number_or_none("max_error"),
        relative_error=fields.number_or_none("relative_error"),
        finite=fields.flag("finite"),
        beyond=fields.flag("beyond"),
    )


# -- device -------------------------------------------------------------------------------------


def _device_tier(fields: Fields, environment: Environment) -> DeviceTier:
    measured = [entry for entry in fields.children("rows") if "error" not in entry.values]
    return DeviceTier(
        environment=environment,
        runner=RunnerDescription.from_fields(fields.child("runner")),
        rows=tuple(_device_row(entry) for entry in measured),
    )


def _device_row(fields: Fields) -> DeviceRow:
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
