"""``fcn-deploy data check``: what a folder of labelled images holds, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fcn_deploy.commands.data_convert import convert
from fcn_deploy.commands.shared.console import EXIT_FAILED, console, counter, new_table, print_table
from fcn_deploy.commands.shared.options import PathText, PathType, held_out_option
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import probe, write_json

if TYPE_CHECKING:
    from fcn_deploy.data.check_report import DataReport, Fault, SplitReport

SCHEMA = 1
#: Faults of one kind that get a line each.
_TOLD_SINGLY = 3
_BAR = 24


@click.group(invoke_without_command=True)
@click.pass_context
def data(context: click.Context) -> None:
    """Look at labelled images before training on them."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


data.add_command(convert)


@data.command("check")
@click.argument("folder", type=PathText("synthetic", folder=True), metavar="DIR|synthetic")
@held_out_option
@click.option(
    "--write-classes", is_flag=True,
    help="First write DIR/classes.json from the values or colours that the masks hold.",
)  # fmt: skip
@click.option(
    "--html", "html_file", type=PathType(),
    help="Write a page with the tables and a sheet of images with their masks to this file.",
)  # fmt: skip
@click.option(
    "--json", "json_file", type=PathType(), help="Write what is printed to this file, as JSON."
)
def check(
    folder: str,
    held_out: float | None,
    write_classes: bool,
    html_file: Path | None,
    json_file: Path | None,
) -> None:
    """Decode every file that the lists name; name all faults, each with its repair.

    Exit code 1 if there are any.
    """
    from fcn_deploy.data import check as data_check
    from fcn_deploy.data.scenes.dataset import SCENE_COUNTS
    from fcn_deploy.data.sources import DataSource

    for file in (json_file, html_file):
        if file is not None:
            probe(file)
    if folder == "synthetic":
        if held_out is not None or write_classes:
            option, has = (
                ("--split", "lists") if held_out is not None else ("--write-classes", "classes")
            )
            raise InputError(f"{option}, but the built-in scenes have {has}", f"drop {option}")
        with counter("drawing", sum(SCENE_COUNTS.values())) as step:
            report = data_check.check_scenes(step)
    else:
        if write_classes:
            _write_classes(Path(folder), held_out)
        count = data_check.count_samples(Path(folder), held_out)
        with counter("checking", count) as step:
            report = data_check.check(Path(folder), step, held_out)
        if report.recognised is not None:
            console.print(report.recognised)
    _print_splits(report)
    _print_classes(report)
    for line in _told(report.faults):
        console.print(line)
    for note in report.notes:
        console.print(f"note: {note}")
    if json_file is not None:
        from fcn_deploy.results.environment import result_header

        write_json(json_file, {**result_header("data-check", SCHEMA), **report.to_json()})
        console.print(f"wrote {json_file}")
    if html_file is not None:
        from fcn_deploy.report.contact_sheet import write_contact_sheet

        write_contact_sheet(report, DataSource(folder, held_out), html_file)
        console.print(f"wrote {html_file}")
    if not report.faults:
        console.print("no faults")
        return
    files = len({fault.file for fault in report.faults})
    console.print(f"faults: {len(report.faults)}, in {files} files")
    sys.exit(EXIT_FAILED)


def _write_classes(folder: Path, held_out: float | None) -> None:
    from fcn_deploy.data.check import layout_with_lists
    from fcn_deploy.data.class_json import require_no_class_json, write_class_json
    from fcn_deploy.data.found_classes import found_classes, masks_of

    layout = layout_with_lists(folder, held_out)
    require_no_class_json(layout.root)
    with counter("reading masks", len(masks_of(layout))) as step:
        content = found_classes(layout, step)
    file = write_class_json(layout.root, content)
    console.print(f"wrote {file}: {len(content['classes'])} classes; name them there")


def _told(faults: Sequence[Fault]) -> Iterator[str]:
    """Yield a line for each fault, or one for all those that differ in nothing but the file."""
    alike: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        alike.setdefault((fault.kind, fault.repair), []).append(fault)
    for several in alike.values():
        if len(several) <= _TOLD_SINGLY:
            yield from map(str, several)
            continue
        first, *others = several
        files = [Path(name).name for name in dict.fromkeys(f.file for f in others)]
        few = ", ".join(files[:_TOLD_SINGLY]) + (", …" if len(files) > _TOLD_SINGLY else "")
        where = "in the same file" if {f.file for f in others} == {first.file} else few
        yield f"{first} ({len(others)} more like it: {where}; --json FILE keeps all)"


def _print_splits(report: DataReport) -> None:
    figures = ("samples", "readable", "smallest", "most frequent", "largest")
    table = new_table(report.source, ["list"], figures)
    for split in report.splits:
        table.add_row(split.name, str(split.samples), str(split.readable), *_sizes(split))
    print_table(table)


def _sizes(split: SplitReport) -> tuple[str, str, str]:
    if not split.sizes:
        return "-", "-", "-"
    by_area = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
    sizes = by_area[0], split.sizes.most_common(1)[0][0], by_area[-1]
    smallest, typical, largest = (f"{height}×{width}" for height, width in sizes)
    return smallest, typical, largest


def _print_classes(report: DataReport) -> None:
    from fcn_deploy.data.class_counts import median_frequency

    counts = report.counts
    labelled = int(counts.pixels.sum())
    if not labelled:
        return  # a table of noughts would hide the faults
    weights = median_frequency(counts)
    figures = ("pixels", "images", "weight by median frequency")
    table = new_table("classes, by labelled pixels", ["class"], figures)
    table.add_column("share")
    for index, name in enumerate(report.class_names):
        share = int(counts.pixels[index]) / labelled if labelled else 0.0
        table.add_row(
            name, f"{share:.2%}", str(int(counts.images[index])), f"{weights[index]:.2f}",
            "█" * round(_BAR * share) or ("▏" if share else ""),
        )  # fmt: skip
    print_table(table)
    everything = labelled + counts.void
    console.print(f"void: {counts.void / everything:.2%} of all pixels")
