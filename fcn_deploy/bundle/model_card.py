"""A bundle's `README.md`, a model card with figures from the result files, and its `Kitfile`.

What no result file says is called unknown: no figure is computed or guessed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from fcn_deploy.bundle.contents import Contents
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.evaluation import Estimate

_UNKNOWN = "unknown: the run does not say"


def data_words(contents: Contents) -> str | None:
    """Return what the network was trained on, or None where the run does not say."""
    training = contents.training
    if training is None:
        return None
    return "; ".join(f"{s.name}: {s.source}, {s.read} images" for s in training.splits)


def model_card(contents: Contents, name: str, pictures: int) -> str:
    """Return the text of `README.md`.

    Args:
        contents: of the bundle.
        name: of the network.
        pictures: that ride along.
    """
    training, spec = contents.training, contents.spec
    sections = [
        _head(contents, name),
        f"# {name}",
        f"Semantic segmentation: `{spec.architecture}`, {spec.num_classes} classes "
        f"({', '.join(spec.class_names)}). The graph takes RGB images as uint8 `[N, H, W, 3]` "
        f"({spec.input_shape.words}) and gives class indices as uint8 `[N, H, W]`; normalisation "
        "and argmax are inside.",
        "## Intended use",
        "Images like those that it was trained on. It has not been examined for other images, nor "
        "for decisions about people; the run says nothing about either.",
        "## Training data",
        data_words(contents) or _UNKNOWN,
        "## Training",
        _UNKNOWN
        if training is None
        else f"{len(training.epochs)} epochs, the best is {training.best_epoch} (validation mIoU "
        f"{_points(training.best.val_mean_iou)}); began with "
        f"{training.weights or 'random weights'}; seed {training.seed}.",
        "## Scores",
        *_scores(contents),
        "## Are the masks the same",
        f"The masks of {pictures} pictures ride along, as the float32 reference gave them. "
        "`fcn-deploy verify BUNDLE --run` computes them again and holds them against these.",
        *_parity(contents),
        "## Speed",
        *_speed(contents),
        "## Limits",
        *_limits(contents),
        "## Where it comes from",
        *_table(
            ("file", "SHA-256"),
            [
                ("original" if contents.run.is_foreign else "checkpoint",
                 contents.checkpoint_digest.removeprefix("sha256:")),
                *((file.file, file.digest.removeprefix("sha256:")) for file in contents.onnx),
                *((plan.name, sidecar.plan_digest.removeprefix("sha256:"))
                  for plan, sidecar in contents.engines.items()),
            ],
        ),
    ]  # fmt: skip
    return "\n\n".join(section for section in sections if section) + "\n"


def kitfile(contents: Contents, name: str) -> str:
    """Return the text of the `Kitfile`, by which `kit pack` makes an OCI artifact of a bundle."""
    parts = [file.file for file in contents.onnx if file.precision is not Precision.FP32]
    lines = [
        'manifestVersion: "1.0.0"',
        "package:",
        f"  name: {_quoted(name)}",
        f"  description: {_quoted(f'Semantic segmentation, {contents.spec.architecture}')}",
        "model:",
        f"  name: {_quoted(name)}",
        "  path: model.onnx",
        "  framework: onnx",
    ]
    if parts or contents.engines:
        lines.append("  parts:")
        lines += [f"    - path: {part}" for part in parts]
        lines += ["    - path: engines"] if contents.engines else []
    lines += [
        "docs:",
        "  - path: README.md",
        "    description: Model card",
        "  - path: fcn-deploy.json",
        "    description: Manifest with the digest of every file",
        "datasets:",
        "  - name: certificate",
        "    path: certificate",
        "    description: Pictures with the masks that the float32 reference gave for them",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text)  # what JSON quotes, YAML reads


def _head(contents: Contents, name: str) -> str:
    lines = [
        "---",
        f"model_name: {_quoted(name)}",
        "library_name: fcn-deploy",
        "pipeline_tag: image-segmentation",
        "tags: [semantic-segmentation, onnx]",
        "license: unknown",
    ]
    scores = [
        (file.pictures, row) for file in contents.evaluations for row in file.rows[:1]
        if row.mean_iou.value is not None
    ]  # fmt: skip
    if scores:
        pictures, row = scores[-1]
        lines += [
            "model-index:",
            f"  - name: {_quoted(name)}",
            "    results:",
            "      - task: {type: image-segmentation}",
            f"        dataset: {{name: {_quoted(pictures.source)}, type: "
            f"{_quoted(pictures.source)}, split: {_quoted(pictures.split)}}}",
            f"        metrics: [{{type: mean_iou, value: {row.mean_iou.value}}}]",
        ]
    return "\n".join([*lines, "---"])


def _scores(contents: Contents) -> list[str]:
    rows = [
        (
            f"{row.runner.backend} {row.runner.precision_name}",
            f"{file.pictures.source}, {file.pictures.split}, {file.pictures.count} images",
            file.pictures.role or "unknown",
            _estimate(row.mean_iou),
            _estimate(row.pixel_accuracy),
        )
        for file in contents.evaluations
        for row in file.rows
    ]
    if not rows:
        return ["Unknown: `fcn-deploy evaluate` has not been run."]
    heads = ("backend", "labelled images", "their role in training", "mIoU", "pixel accuracy")
    return _table(heads, rows)


def _parity(contents: Contents) -> list[str]:
    rows = [
        (
            f"{one.candidate.backend} {one.candidate.precision_name}",
            str(one.images.count),
            f"{one.flips:,} of {one.images.pixels:,}",
            "not finite" if one.epsilon is None else f"{one.epsilon:.3g}",
            "passed" if one.passed else f"failed: {', '.join(one.failed_checks)}",
        )
        for file in contents.parity_files
        for one in file.comparisons
    ]
    heads = ("backend", "pictures", "pixels of another class", "largest logit error", "gate")
    return _table(heads, rows)


def _speed(contents: Contents) -> list[str]:
    rows = [
        (
            f"{row.runner.backend} {row.runner.precision_name}",
            row.conditions,
            f"{row.median_ms:.4g}",
            f"{row.images_per_s:.4g}",
            bench.environment.machine_name,
        )
        for bench in contents.benches
        for row in bench.rows
    ]
    if not rows:
        return ["Unknown: `fcn-deploy bench` has not been run."]
    return _table(("backend", "case", "median ms", "images/s", "machine"), rows)


def _limits(contents: Contents) -> Iterable[str]:
    if not contents.evaluations:
        yield "- No score against labels is known."
    training = contents.training
    if training is not None:
        lowest = sorted(
            (iou, name)
            for name, iou in zip(training.class_names, training.val_iou, strict=True)
            if iou is not None
        )[:3]
        if lowest:
            words = ", ".join(f"{name} ({_points(iou)})" for iou, name in lowest)
            yield f"- Classes with the lowest IoU on the validation images: {words}."
    yield "- What it does on images of other places, cameras, seasons or weather is unknown."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in cells) + " |"

    lines = [line(heads), "|" + "---|" * len(heads), *map(line, rows)]
    return ["\n".join(lines)]


def _points(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def _estimate(estimate: Estimate) -> str:
    if estimate.value is None or estimate.interval is None:
        return _points(estimate.value)
    low, high = estimate.interval.low, estimate.interval.high
    return f"{_points(estimate.value)} ({100 * low:.2f} to {100 * high:.2f})"
