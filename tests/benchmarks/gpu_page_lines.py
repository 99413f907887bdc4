"""What the page of GPU checks says of a check, for its tests."""

import re
from pathlib import Path

import gpu_checks
from gpu_page.page import page
from gpu_page.results import read_gpu_results

DOCS = gpu_checks.CHECKS.parent


def lines_of(text: str, what: str) -> list[list[str]]:
    """Return the cells of the lines of a check: of that name, else those that begin so."""
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in text.splitlines() if line[:2] == "| "]
    named = [cells for cells in rows if cells[0] == what]
    return named or [cells for cells in rows if cells[0].startswith(what)]


def results_of(folder: Path, what: str) -> list[str]:
    """Return what the page says of a check, of files in a folder."""
    return [cells[2] for cells in lines_of(page(read_gpu_results(folder), DOCS), what)]


def result_of(folder: Path, what: str) -> str:
    """Return the same of a check with one line, without the link to its file."""
    (result,) = results_of(folder, what)
    return result.rpartition(" ([`")[0] or result
