"""What `evaluate` prints: the scores of each row, IoU per class, and which classes are confused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console, new_table, print_table
from fcn_deploy.results.format import estimate_words, points_words, role_words, runner_name

if TYPE_CHECKING:
    from fcn_deploy.results.evaluation import Evaluation, EvaluationFile

#: A confusion matrix of more classes is wider than a terminal; its largest entries are named.
_WIDEST_MATRIX = 12
_NAMED_PAIRS = 5


def print_evaluation(result: EvaluationFile) -> None:
    """Print the rows side by side, the classes, and the confusion matrix of each row."""
    _print_rows(result)
    _print_classes(result)
    for row in result.rows:
        if len(row.classes) <= _WIDEST_MATRIX:
            _print_matrix(row)
        _print_most_confused(row)
    for sentence in notes(result):
        console.print(sentence)


def notes(result: EvaluationFile) -> list[str]:
    """Return what a reader of the figures has to know about the pictures and the intervals."""
    from fcn_deploy.results.evaluation import FEW_PICTURES

    count, how = result.pictures.count, result.bootstrap
    said = [role_words(result.pictures.role)]
    if count < 2:
        return [*said, "no intervals: they need at least 2 images"]
    said.append(
        f"[ ]: {how.level:.0%} interval by the percentile bootstrap of the images, "
        f"{how.resamples:,} resamples, seed {how.seed}"
    )
    if count < FEW_PICTURES:
        said.append(f"with only {count} images the intervals mean little")
    return said


def _print_rows(result: EvaluationFile) -> None:
    pictures = result.pictures
    columns = ["mIoU [interval]", "pixel accuracy"]
    if len(result.rows) > 1:
        columns += ["Δ mIoU, points", "Δ accuracy, points"]
    table = new_table(
        f"{pictures.count:,} images of {pictures.source}, "
        f"{pictures.labelled_pixels:,} labelled pixels",
        ["runner"],
        columns,
    )
    for row in result.rows:
        cells = [estimate_words(row.mean_iou), estimate_words(row.pixel_accuracy)]
        if len(result.rows) > 1:
            cells += [points_words(row.mean_iou_change), points_words(row.pixel_accuracy_change)]
        table.add_row(runner_name(row.runner), *cells)
    print_table(table)


def _print_classes(result: EvaluationFile) -> None:
    runners = (runner_name(row.runner) for row in result.rows)
    table = new_table("IoU per class", ["class"], ("of pixels", "images", *runners))
    for index, entry in enumerate(result.rows[0].classes):
        share = entry.pixels / result.pictures.labelled_pixels
        ious = [estimate_words(row.classes[index].iou) for row in result.rows]
        table.add_row(entry.name, f"{share:.2%}", f"{entry.pictures:,}", *ious)
    print_table(table)


def _print_matrix(row: Evaluation) -> None:
    table = new_table(
        f"confusion matrix of {runner_name(row.runner)}: % of the true class's pixels",
        ["true class"],
        [name[:6] for name in row.class_names],
    )
    for name, shares in zip(row.class_names, row.confusion_shares(), strict=True):
        cells = ("-" if share is None else f"{100 * share:.1f}" for share in shares)
        table.add_row(name, *cells)
    print_table(table)


def _print_most_confused(row: Evaluation) -> None:
    pairs = row.most_confused(_NAMED_PAIRS)
    said = ", ".join(f"{true} → {predicted} {share:.2%}" for true, predicted, share in pairs)
    console.print(f"most confused by {runner_name(row.runner)}, of all pixels: {said or 'nothing'}")
