"""Its tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console

if TYPE_CHECKING:
    from fcn_deploy.parity.bisect import BisectResult
    from fcn_deploy.parity.compare import ParityResult


#: Rows of the printed table of flips by pair of classes.
_SHOWN_PAIRS = 5


def print_layers(result: BisectResult) -> None:
    """Print the layers of a bisection and the first one beyond its tolerance."""
    from rich.table import Table

    from fcn_deploy.parity.bisect import layer_table

    table = Table(
        title=f"{result.candidate.file} against {result.reference.file}, {result.pictures} "
        f"pictures; allowed: {result.tolerance:g} of the RMS",
        title_justify="left",
    )
    for column in ("layer", "operator", "shape"):
        table.add_column(column, overflow="fold")
    for column in ("RMS", "relative error"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in layer_table(result):
        table.add_row(*row)
    console.print(table, soft_wrap=False)
    if result.first is None:
        console.print("every layer keeps its tolerance")
    else:
        error = f"relative error {result.first.relative_error:.2g}"
        how = error if result.first.finite else "NaN or infinite"
        console.print(f"first layer beyond its tolerance: {result.first.name} ({how})")


def print_parity(result: ParityResult) -> None:
    """Print the gate of a comparison, where its flips are, and the diagnosis."""
    from rich.table import Table
    from rich.text import Text

    from fcn_deploy.results.format import gate_words

    candidate = result.candidate
    table = Table(
        title=f"{candidate.backend} {candidate.precision} ({candidate.library}, "
        f"{candidate.device}) against {result.reference.library} fp32",
        title_justify="left",
    )
    for column in ("check", "", "figure"):
        table.add_column(column, overflow="fold")
    for check in result.checks:
        mark = Text("ok", "green") if check.passed else Text("FAILED", "bold red")
        table.add_row(check.name, mark, check.sentence)
    console.print(table, soft_wrap=False)
    if result.tally.flips:
        _print_flips(result)
    if result.passed:
        labelled = result.is_labelled
        console.print(gate_words(candidate, result.agreement, result.pictures, labelled=labelled))
    else:
        console.print("THE GATE FAILS")
    for sentence in result.diagnosis:
        console.print(f"  {sentence}")


def _print_flips(result: ParityResult) -> None:
    from rich.table import Table

    tally, names = result.tally, result.spec.class_names
    table = Table(title="where the flips are", title_justify="left")
    for column in ("", "flips", "of pixels"):
        table.add_column(column, overflow="fold", justify="right" if column else "left")
    given = tally.classes.sum(axis=1)
    for pair in tally.flips_by_class()[:_SHOWN_PAIRS]:
        table.add_row(
            f"{names[pair['reference']]} → {names[pair['candidate']]}",
            f"{pair['flips']:,}",
            f"{int(given[pair['reference']]):,}",
        )
    table.add_section()
    for margins in tally.flips_by_margin():
        if margins["flips"]:
            low, high = margins["from"], margins["to"]
            span = f"from {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
            table.add_row(f"margin {span}", f"{margins['flips']:,}", f"{margins['pixels']:,}")
    table.add_section()
    for band in tally.flips_by_distance():
        if band["flips"]:
            low, high = band["from_px"], band["to_px"]
            span = f"{low}" if low == high else f"{low}–{high}" if high else f"{low} or more"
            table.add_row(
                f"{span} px from a class edge", f"{band['flips']:,}", f"{band['pixels']:,}"
            )
    console.print(table, soft_wrap=False)
