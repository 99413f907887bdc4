"""The documents agree with the code: links lead somewhere, schema numbers are those written."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fcn_deploy.commands.data import SCHEMA as DATA_CHECK_SCHEMA
from fcn_deploy.parity.recording import OUTPUTS_SCHEMA
from fcn_deploy.results.read import SCHEMAS
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.training import Epoch, Training

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
)
RESULTS_PAGE = ROOT / "docs" / "results.md"
WRITTEN_SCHEMAS = {**SCHEMAS, "outputs": OUTPUTS_SCHEMA, "data-check": DATA_CHECK_SCHEMA}


def prose(text: str) -> str:
    """Return a page without its fenced blocks, in which `#` and brackets mean something else."""
    return re.sub(r"^ *(```|~~~).*?^ *\1 *$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return what GitHub names the headings of a page."""
    names: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose(text), flags=re.MULTILINE):
        words = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        repeated = sum(bool(re.fullmatch(rf"{re.escape(name)}(-\d+)?", n)) for n in names)
        names.add(f"{name}-{repeated}" if repeated else name)
    return names


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or no heading."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        leads = target.exists()
        if leads and anchor:
            leads = anchor in anchors(target.read_text(encoding="utf-8"))
        if not leads:
            dead.append(link)
    return dead


def schemas_of(text: str) -> dict[str, int]:
    """Return the kinds that have a section on the page of result files, and their schemas."""
    found = re.findall(r"^## `([a-z-]+)`\n\nSchema (\d+)\.", text, flags=re.MULTILINE)
    return {kind: int(schema) for kind, schema in found}


def names_of(kind: type) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {field.name for field in fields(kind)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_noticed(tmp_path: Path) -> None:
    other, page = tmp_path / "other.md", tmp_path / "page.md"
    other.write_text("# One `two`, three\n\n```sh\n# a comment\n```\n# Again\n# Again\n")
    good = ["other.md", "other.md#one-two-three", "other.md#again-1", "#here", "https://x.y"]
    bad = ["none.md", "other.md#a-comment", "other.md#again-2", "#there"]
    page.write_text("# Here\n" + " ".join(f"[x]({link})" for link in good + bad))
    assert dead_links(page) == bad


def test_the_page_of_result_files_gives_the_schemas_that_are_written() -> None:
    assert schemas_of(RESULTS_PAGE.read_text(encoding="utf-8")) == WRITTEN_SCHEMAS


def test_the_page_of_result_files_lists_every_kind() -> None:
    text = RESULTS_PAGE.read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `kind` \| (.*) \|$", text, flags=re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", row)) == set(WRITTEN_SCHEMAS)


@pytest.mark.parametrize(
    ("begin", "end", "names"),
    [
        ("A **runner** has", "## `train`", names_of(RunnerDescription)),
        ("## `train`", "An **epoch**", names_of(Training) - {"environment", "splits"} | {"data"}),
        ("An **epoch**", "## `data-check`", names_of(Epoch)),
    ],
    ids=["runner", "train", "epoch"],
)
def test_the_page_of_result_files_names_every_key(begin: str, end: str, names: set[str]) -> None:
    text = RESULTS_PAGE.read_text(encoding="utf-8")
    section = text[text.index(begin) : text.index(end)]
    assert names - set(re.findall(r"`(\w+)`", section)) == set()


def test_the_readme_is_short_and_names_the_test_command() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert "Test command: `make test`." in lines
