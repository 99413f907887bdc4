"""The pages that show what was measured on a GPU, written anew from the recorded results.

    python benchmarks/gpu_checks.py          # or: make gpu-checks

    benchmarks/results ─┬─▶ docs/gpu-checks.md       every check: measured, or not
                        └─▶ README.md, docs/benchmarks.md
                            between <!-- bench-gpu:begin --> and <!-- bench-gpu:end -->

Run it after a result file was added or taken away; a test compares the pages with the files.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from gpu_page import table
from gpu_page.page import page
from gpu_page.results import read_gpu_results
from markdown_page import with_part

from fcn_deploy.core.errors import ArtifactError, FcnDeployError
from fcn_deploy.core.files import write_bytes

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHECKS = ROOT / "docs" / "gpu-checks.md"
#: Pages with a part for the table.
WITH_TABLE = (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")


def gpu_pages(results: Path = RESULTS) -> dict[Path, str]:
    """Return every page that shows GPU results, with the text that it should have.

    Raises:
        ArtifactError: a page has no part for the table, or cannot be read.
    """
    found = read_gpu_results(results)
    pages = {CHECKS: page(found, CHECKS.parent)}
    for target in WITH_TABLE:
        try:
            text = target.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {target}: {error}", "restore it") from error
        updated = with_part(text, table.PART, table.gpu_table(found, target.parent, CHECKS))
        if updated is None:
            raise ArtifactError(
                f"{target} has no part {table.PART}",
                f"put <!-- {table.PART}:begin --> and <!-- {table.PART}:end --> into it",
            )
        pages[target] = updated
    return pages


def write_gpu_pages() -> None:
    """Write the pages that differ from the results, and say which."""
    for target, text in gpu_pages().items():
        same = target.is_file() and target.read_text(encoding="utf-8") == text
        if not same:
            write_bytes(target, text.encode())
        click.echo(f"{'as it was:' if same else 'wrote'} {target.relative_to(ROOT)}")


@click.command()
def main() -> None:
    """Write the pages that show GPU results."""
    try:
        write_gpu_pages()
    except FcnDeployError as error:
        click.echo(f"gpu_checks: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
