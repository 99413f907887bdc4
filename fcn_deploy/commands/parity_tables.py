"""What `parity` prints: the gate, where the flips are, and the layers of a bisection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console, new_table, print_table

if TYPE_CHECKING:
    from fcn_deploy.results.bisect import Bisection, Layer
    from fcn_deploy.results.parity import Comparison
    from fcn_deploy.results.parity_parts import Bucket


#: Rows of the printed table of flips by pair of classes.
_SHOWN_PAIRS = 5


def print_layers(bisection: Bisection) -> None:
    """Print the layers of a bisection and the first one beyond its tolerance."""
    table = new_table(
        f"{bisection.candidate.file} against {bisection.reference.file}, {bisection.count} "
        f"pictures; allowed: {bisection.tolerance:g} of the RMS",
        ("layer", "operator", "shape"),
        ("RMS", "relative error"),
    )
    table.add_column("")
    for layer in bisection.layers:
        table.add_row(*layer_row(layer))
    print_table(table)
    first = bisection.first
    if first is None:
        console.print("every layer keeps its tolerance")
    else:
        how = f"relative error {_figure(first.relative_error, '.2g')}"
        how = how if first.finite else "NaN or infinite"
        console.print(f"first layer beyond its tolerance: {first.name} ({how})")


def layer_row(layer: Layer) -> tuple[str, str, str, str, str, str]:
    """Return a layer's words: name, operator, shape, scale, relative error, verdict.

    The verdict is empty where the layer keeps its tolerance.
    """
    return (
        layer.name,
        layer.operator,
        "×".join(map(str, layer.shape)),
        _figure(layer.scale, ".3g"),
        _figure(layer.relative_error, ".2g") if layer.finite else "",
        ("beyond" if layer.finite else "NaN or infinite") if layer.beyond else "",
    )


def _figure(value: float | None, spec: str) -> str:
    return "inf" if value is None else format(value, spec)


def print_parity(comparison: Comparison) -> None:
    """Print the gate of a comparison, where its flips are, and the diagnosis."""
    from rich.text import Text

    from fcn_deploy.results.format import gate_words

    candidate = comparison.candidate
    table = new_table(
        f"{candidate.backend} {candidate.precision_name} ({candidate.library}, "
        f"{candidate.device}) against {comparison.reference.library} fp32",
        ("check", "", "figure"),
    )
    for check in comparison.checks:
        mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, mark, check.sentence)
    print_table(table)
    if comparison.flips:
        _print_flips(comparison)
    if comparison.passed:
        pictures, labelled = comparison.images.count, comparison.is_labelled
        console.print(gate_words(candidate, comparison.agreement, pictures, labelled=labelled))
    else:
        console.print("THE GATE FAILS")
    for sentence in comparison.diagnosis:
        console.print(f"  {sentence}")


def _print_flips(comparison: Comparison) -> None:
    names = comparison.class_names
    table = new_table("where the flips are", [""], ("flips", "of pixels"))
    for pair in comparison.by_class[:_SHOWN_PAIRS]:
        table.add_row(f"{names[pair.reference]} → {names[pair.candidate]}", f"{pair.flips:,}", "")
    table.add_section()
    for bucket in comparison.by_margin:
        if bucket.flips:
            table.add_row(_margin_words(bucket), f"{bucket.flips:,}", f"{bucket.pixels:,}")
    table.add_section()
    for bucket in comparison.by_distance:
        if bucket.flips:
            table.add_row(_distance_words(bucket), f"{bucket.flips:,}", f"{bucket.pixels:,}")
    print_table(table)


def _margin_words(bucket: Bucket) -> str:
    if bucket.high is None:
        return f"margin from {bucket.low:.3g}"
    return f"margin {bucket.low:.3g} to {bucket.high:.3g}"


def _distance_words(bucket: Bucket) -> str:
    low, high = bucket.low, bucket.high
    span = f"{low:g}" if low == high else f"{low:g}–{high:g}" if high else f"{low:g} or more"
    return f"{span} px from a class edge"
