"""``fcn-deploy report``: results of a run, or of several machines, as one HTML file."""

from pathlib import Path

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.options import PathText, PathType
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import InputError


@click.command()
@click.argument("sources", nargs=-1, type=PathText(), metavar="[RUN | BUNDLE | FILE.json …]")
@click.option(
    "--out",
    type=PathType(),
    help="Write the report to this file; by default to RUN/report.html, or, where FILEs are "
    "given, to report.html in the current folder.",
)
@click.option(
    "--predictions", type=PathType(folder=True),
    help="Show what `predict` wrote into this folder; by default into RUN/predictions.",
)  # fmt: skip
def report(sources: tuple[str, ...], out: Path | None, predictions: Path | None) -> None:
    """Gather results into one self-contained HTML file.

    All results of a RUN, or the FILEs named, which may come from several machines: their rows
    stand in one page, but are ranked only within a file.
    """
    from fcn_deploy.report.page import write_merged_report, write_report

    files = [Path(source) for source in sources if _is_result_file(source)]
    if len(files) < len(sources) and len(sources) > 1:
        raise InputError(
            "a report is of one run, or of result files",
            "name one run, or .json files only, e.g. runs/a/bench/all.json",
        )
    if files and predictions is not None:
        raise InputError("--predictions is of a run", "name the run in place of files")
    if files:
        written = write_merged_report(files, out)
    else:
        run = run_from_argument(sources[0] if sources else None)
        written = write_report(run, out, predictions)
    console.print(f"wrote {written}")


def _is_result_file(source: str) -> bool:
    path = Path(source)
    return path.suffix.lower() == ".json" and not path.is_dir()
