"""Are the masks the same?  Compares a candidate runner with the float32 reference.

    pictures ──▶ reference ─┐
         └─────▶ candidate ─┴─▶ Tally (errors, flips, counts) ──▶ checks ──▶ ParityResult
                                                                    └ failed ─▶ diagnosis

ε is the largest |Δlogit|.  A pixel whose reference margin exceeds 2ε is decided: no candidate
whose logits are within ε may flip it.  That alone proves little, as a broken candidate only makes
ε large and leaves no pixel decided; so ε itself is bounded, relative to the largest |logit|.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.parity.diagnosis import PLACE_IN_BATCH, diagnose, find_cause
from fcn_deploy.parity.gate import GATES, Check, Gate, gate_checks, only_rounding_check
from fcn_deploy.parity.inputs import ODD_SIZES, Picture, Pictures
from fcn_deploy.parity.saved_outputs import Recording, require_comparable
from fcn_deploy.parity.tally import BatchCheck, Tally
from fcn_deploy.parity.worst_pictures import drawn
from fcn_deploy.results.environment import result_header
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Runner

PARITY_SCHEMA = 2
#: Bytes that the pictures of one result file may take, shared among its comparisons.
PICTURE_BUDGET = 2_300_000


@dataclass(frozen=True)
class ParityResult:
    """A finished comparison; :meth:`to_json` is what is saved and reported.

    Attributes:
        reference: what the candidate was compared with.
        candidate: what was compared.
        spec: of the network.
        source: where the pictures come from.
        gate: the limits.
        tally: the counts.
        batch: the batch-place check.
        checks: the gate's points.
        diagnosis: sentences that say what a failure looks like; empty where the gate passes.
    """

    reference: RunnerDescription
    candidate: RunnerDescription
    spec: ModelSpec
    source: str
    gate: Gate
    tally: Tally
    batch: BatchCheck
    checks: tuple[Check, ...]
    diagnosis: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every point of the gate holds."""
        return all(check.passed for check in self.checks)

    @property
    def agreement(self) -> float:
        """Share of all pixels with the reference's class."""
        return 1 - self.tally.flips / self.tally.pixels

    @property
    def pictures(self) -> int:
        """How many pictures were compared, not counting those of odd sizes."""
        return self.tally.pictures - len(ODD_SIZES)

    @property
    def is_labelled(self) -> bool:
        """Whether mean IoUs were compared: at least one pixel has a label."""
        labels = self.tally.reference_confusion
        return labels is not None and not math.isnan(labels.mean_iou())

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values, without its pictures, which :func:`save` adds."""
        tally = self.tally
        flips = tally.widest_flips()
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "class_names": list(self.spec.class_names),
            "palette": [list(colour) for colour in self.spec.palette],
            "images": {
                "source": self.source,
                "count": self.pictures,
                "odd_sizes": [list(size) for size in ODD_SIZES],
                "pixels": tally.pixels,
                "digest": tally.digest,
            },
            "gate": asdict(self.gate),
            "epsilon": _number(tally.epsilon),
            "logit_scale": _number(tally.logit_scale),
            "finite": tally.finite,
            "agreement": self.agreement,
            "flips": tally.flips,
            "decided_pixels": tally.margins.at_least(2 * tally.epsilon),
            "decided_flips": tally.decided_flips(),
            "widest_flip_margin": tally.widest_flip_margin(),
            "boundary": {"pixels": tally.boundary_pixels, "flips": tally.boundary_flips},
            "interior": {
                "pixels": tally.pixels - tally.boundary_pixels,
                "flips": tally.flips - tally.boundary_flips,
            },
            "scores": _scores(tally, self.spec),
            "batch": self.batch.to_json(),
            "checks": [asdict(check) for check in self.checks],
            "passed": self.passed,
            "flip_list": [asdict(flip) for flip in flips],
            "flip_list_complete": len(flips) == tally.flips,
            "flips_by_class": tally.flips_by_class(),
            "flips_by_margin": tally.flips_by_margin(),
            "flips_by_distance": tally.flips_by_distance(),
            "diagnosis": list(self.diagnosis),
        }


def compare(
    reference: Runner,
    candidate: Runner,
    pictures: Pictures,
    *,
    gate: Gate | None = None,
    can_rerun: bool = True,
    on_picture: Callable[[], None] = lambda: None,
) -> ParityResult:
    """Compare a candidate with the reference, picture by picture.

    Args:
        reference: float32, opened for ``mask`` and ``logits``.
        candidate: opened for ``mask`` and ``logits``.
        pictures: any sizes; the first ones are also resized to ``ODD_SIZES``.
        gate: the limits; by default those of the candidate's precision.
        can_rerun: whether the runners take other pictures than these as well, so that causes of a
            failure can be put to the test; recorded ones do not.
        on_picture: called after each picture.

    Raises:
        InputError: there are no pictures, or the two networks' classes differ.
    """
    spec = reference.spec
    if candidate.spec.class_names != spec.class_names:
        raise InputError("the candidate has other classes than the reference", "export it again")
    description = candidate.describe()
    gate = gate or GATES[Precision(description.precision)]
    tally = Tally(spec.num_classes)
    first: list[Picture] = []
    for picture in pictures:
        _add(tally, reference, candidate, picture)
        if len(first) < len(ODD_SIZES):
            first.append(picture)
        on_picture()
    if not first:
        raise InputError("no pictures to compare on", "name a folder of pictures with --images")
    extras = pictures.extras(first)
    for picture in extras.odd_sizes:
        _add(tally, reference, candidate, picture)
    batch = _check_batch_place(reference, candidate, extras.batch)
    checks = tuple(gate_checks(tally, batch, gate))
    failed = {check.name for check in checks if not check.passed}
    cause = None
    if gate.coarse or failed - {PLACE_IN_BATCH}:
        cause = find_cause(
            reference, candidate, tally, beside_rounding=gate.coarse, can_rerun=can_rerun
        )
    if gate.coarse:
        checks += (only_rounding_check(cause, can_rerun),)
    diagnosis: Sequence[str] = ()
    if not all(check.passed for check in checks):
        diagnosis = diagnose(
            reference,
            candidate,
            tally,
            batch,
            cause=cause,
            failed=failed,
            allowed_error=gate.max_relative_epsilon * tally.logit_scale,
            can_rerun=can_rerun,
        )
    return ParityResult(
        reference.describe(),
        description,
        spec,
        pictures.source,
        gate,
        tally,
        batch,
        checks,
        tuple(diagnosis),
    )


def compare_recordings(reference: Recording, candidate: Recording) -> ParityResult:
    """Compare what two runners gave, each on a machine of its own.

    Raises:
        InputError: the reference is not float32, or the two are of different checkpoints or
            pictures.
        ArtifactError: a file is missing or damaged.
    """
    require_comparable(reference, candidate)
    with reference.runner() as one, candidate.runner() as other:
        return compare(one, other, reference.pictures(), can_rerun=False)


def _add(tally: Tally, reference: Runner, candidate: Runner, picture: Picture) -> None:
    expected = reference.run(picture.image[None])
    given = candidate.run(picture.image[None])
    if expected.logits is None or given.logits is None:
        raise InputError("parity needs runners that give logits", "open them with outputs=logits")
    tally.add(picture, expected.mask[0], expected.logits[0], given.mask[0], given.logits[0])


def _check_batch_place(
    reference: Runner, candidate: Runner, pictures: Sequence[Picture]
) -> BatchCheck:
    # Distinct pictures of one size, each seen alone and at its place in the batch.
    together = candidate.run(np.stack([picture.image for picture in pictures])).mask
    alone = [candidate.run(picture.image[None]).mask[0] for picture in pictures]
    flips, widest = 0, 0.0
    sources: list[int | None] = []
    for place, picture in enumerate(pictures):
        differ = alone[place] != together[place]
        if not differ.any():
            sources.append(place)
            continue
        logits = reference.run(picture.image[None]).logits
        assert logits is not None  # checked by _add
        flips += int(differ.sum())
        widest = max(widest, float(margin_of(logits)[0][differ].max()))
        same = (other for other, mask in enumerate(alone) if np.array_equal(mask, together[place]))
        sources.append(next(same, None))
    return BatchCheck(len(pictures), flips, widest, tuple(sources))


def _scores(tally: Tally, spec: ModelSpec) -> dict[str, Any] | None:
    before, after = tally.reference_confusion, tally.candidate_confusion
    if before is None or after is None:
        return None
    classes = [
        {"name": name, "reference_iou": _number(b), "candidate_iou": _number(a)}
        for name, b, a in zip(spec.class_names, before.iou(), after.iou(), strict=True)
    ]
    # NaN: a class that does not occur has lost nothing.
    changes = np.nan_to_num(after.iou() - before.iou())
    worst = int(np.argmin(changes))
    return {
        "reference_miou": _number(before.mean_iou()),
        "candidate_miou": _number(after.mean_iou()),
        "reference_pixel_accuracy": _number(before.pixel_accuracy()),
        "candidate_pixel_accuracy": _number(after.pixel_accuracy()),
        "classes": classes,
        "worst_class": {
            "name": spec.class_names[worst],
            "change_points": 100 * float(changes[worst]),
        },
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def save(
    results: Sequence[ParityResult],
    target: Path,
    *,
    recordings: tuple[Recording, Recording] | None = None,
    typed: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write comparisons with their worst pictures as one JSON file, whole or not at all.

    Args:
        results: of one reference.
        target: the file.
        recordings: reference and candidate, where they were compared instead of live runners; the
            file then names their machines instead of this one.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command compared.

    Raises:
        ArtifactError: the place cannot be written; what was there before stays.
    """
    budget = PICTURE_BUDGET // max(1, len(results))
    write_json(
        target,
        {
            **result_header("parity", PARITY_SCHEMA),
            **({} if recordings is None else _provenance(*recordings)),
            **({} if typed is None else typed),
            "results": [
                {
                    **result.to_json(),
                    "pictures": drawn(result.tally.drawings(), result.spec.palette, budget),
                }
                for result in results
            ],
        },
    )


def _provenance(reference: Recording, candidate: Recording) -> dict[str, Any]:
    return {
        "machine": candidate.machine,
        "versions": candidate.versions,
        "reference_machine": reference.machine,
        "reference_versions": reference.versions,
    }
