"""A bench as a part of Markdown pages: tables for each group, and the short one of a headline.

single stream ─┬─ markdown     ──▶ docs/benchmarks.md between <!-- bench:begin --> and …:end
               └─ short_table  ──▶ README.md          between <!-- bench-short:begin --> and …
offline ───────── markdown     ──▶ docs/benchmarks.md between <!-- bench-offline:begin --> …
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.bench_table import BenchGroup, Table, bench_groups, ratio_cell, valid_means
from fcn_deploy.results.ranking import speedup, strongest_pytorch
from fcn_deploy.results.scenarios import OFFLINE, SINGLE_STREAM
from fcn_deploy.results.workload import LOADGEN

#: Scenario → the part of a page that its tables fill; and that of the short table.
PARTS = {SINGLE_STREAM: "bench", OFFLINE: "bench-offline"}
SHORT = "bench-short"
#: So many of our backends have a row there in each precision.
SHORT_ROWS = 2
#: Columns of the short table, and what they are called there.
_SHORT_COLUMNS = {
    "runner": "backend",
    "ms, median [spread]": "ms per image [spread]",
    "× PyTorch": "× PyTorch",
    "× plain export": "× plain export",
    "masks agree": "masks as in PyTorch, 8 images",
}
#: Columns of a higher rank are left to the report: a page is narrower.
MAX_RANK = 2
_HOW = {
    SINGLE_STREAM: "single stream",
    OFFLINE: "offline (time per batch at the throughput of all pictures at once)",
}


def markdown(bench: Bench, left_out: Sequence[str] = (), file: str = "") -> str:
    """Return the tables, one for each tier, batch and size, fastest first, with what to know.

    Args:
        bench: what was measured.
        left_out: sentences: who is missing, and why.
        file: that holds it, as the page names it; empty for none.
    """
    parts = [f"{_heading(bench)}{f' File: `{file}`.' if file else ''}"]
    parts += [part for group in bench_groups(bench) for part in _group(group)]
    if bench.references:
        parts.append(
            "Not ranked: another network, random weights, measured apart by a plain loop; it says "
            "how large ours is."
        )
    if left_out:
        parts.append("Left out: " + "; ".join(left_out) + ".")
    parts += [f"Warning: {w}." for w in bench.conditions.warnings if w not in left_out]
    return "\n\n".join(parts) + "\n"


def _heading(bench: Bench) -> str:
    """Say machine, date and conditions, in one line."""
    words = [*_machine(bench), _plural(bench.conditions.threads, "thread")]
    gpus = [sensor.name for sensor in bench.conditions.gpu_before if sensor.name is not None]
    by = f"MLPerf LoadGen {bench.clock_version}" if bench.clock == LOADGEN else "a timed loop"
    by += f" ({meaning})" if (meaning := valid_means(bench)) else ""
    first = bench.rows[0]
    repeats = max(len(row.repeats_ms) for row in bench.rows)
    asked = f"{repeats} interleaved repeats, {_HOW.get(first.scenario, first.scenario)} by {by}"
    return f"{', '.join([*words, *gpus])}; {bench.environment.created[:10]}; {asked}."


def _machine(bench: Bench) -> list[str]:
    machine = bench.environment.properties
    return [machine["cpu"], _plural(int(machine["cores"]), "core")]


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _group(group: BenchGroup) -> Iterator[str]:
    """Yield the table of the rows that may be ranked, and which of them are too close to call."""
    table = group.table.up_to(MAX_RANK)
    yield f"**{group.title}** ({group.about}):\n\n{markdown_table(table)}"
    yield " ".join([*group.notes, *_headline(group)])
    if group.ties:
        yield f"Too close to call: {'; '.join(f'{one} and {other}' for one, other in group.ties)}."


def markdown_table(table: Table) -> str:
    """Return a table's lines."""
    lines = [
        [column.title for column in table.columns],
        ["---:" if column.is_figure else "---" for column in table.columns],
        *([str(cell).replace("|", "\\|") for cell in row.cells] for row in table.rows),
    ]
    return _lines(lines)


def _lines(cells_of_lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in cells_of_lines)


def short_table(bench: Bench, file: str = "") -> str:
    """Return what the first group comes to: the fastest of ours in each precision beside PyTorch.

    Ours are held against the strongest PyTorch row of all that were measured, whosever it is.

    Args:
        bench: what was measured.
        file: that holds it, as the page names it; empty for none.
    """
    group = bench_groups(bench)[0]
    titles = [column.title for column in group.table.columns]
    places = [titles.index(title) for title in _SHORT_COLUMNS if title in titles]
    strongest = [strongest_pytorch(row, group.rows) for row in group.rows]
    ours = Counter[str]()
    shown = []
    for row, line in zip(group.rows, group.table.rows, strict=False):
        ours[row.runner.precision_name] += _is_ours(row)
        named = _is_ours(row) and ours[row.runner.precision_name] <= SHORT_ROWS
        if named or row in strongest or row.is_baseline:
            shown.append(line.cells)
    lines = [
        [_SHORT_COLUMNS[titles[place]] for place in places],
        ["---:" if group.table.columns[place].is_figure else "---" for place in places],
        *([str(cells[place]) for place in places] for cells in shown),
    ]
    about = f"{', '.join(_machine(bench))}, {bench.environment.created[:10]}"
    about += f" (`{file}`)." if file else "."
    return "\n\n".join([" ".join([about, *_headline(group)]), _lines(lines)])


def _headline(group: BenchGroup) -> Iterator[str]:
    """Yield how the fastest of each precision stands, where PyTorch and the baseline ran too."""
    said: dict[str, str] = {}
    names: dict[str, None] = {}
    for row in group.rows:
        strongest = strongest_pytorch(row, group.rows)
        if strongest is None or row is strongest or not _is_ours(row) or row.over_baseline is None:
            continue
        names[f"`{strongest.runner.backend}` in {strongest.runner.precision}"] = None
        over_pytorch = ratio_cell(speedup(row, strongest)).text
        over_baseline = ratio_cell(row.over_baseline).text
        said.setdefault(
            row.runner.precision_name,
            f"in {row.runner.precision_name} `{row.runner.backend}`: **{over_pytorch}** × PyTorch, "
            f"{over_baseline} × plain export",
        )
    if said:
        in_order = sorted(said, key=lambda name: name != Precision.FP32.value)  # float32 first
        yield (
            f"The fastest of each precision: {'; '.join(said[name] for name in in_order)}. "
            f"PyTorch is the strongest PyTorch row that was measured, {' and '.join(names)}."
        )


def _is_ours(row: BenchRow) -> bool:
    pytorch = strongest_pytorch(row, [row])
    return row.is_valid and not row.is_peer and not row.is_baseline and pytorch is None


def with_part(text: str, part: str, content: str) -> str | None:
    """Return a text with what stands between a part's markers replaced; None where it has none."""
    first, last = markers(part)
    begin, end = text.find(first), text.find(last)
    if begin < 0 or end < begin:
        return None
    return f"{text[: begin + len(first)]}\n{content.strip()}\n{text[end:]}"


def markers(part: str) -> tuple[str, str]:
    """Return what a part of a page stands between."""
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def update_page(page: Path, parts: Mapping[str, str]) -> None:
    """Write the parts of a page that it has markers for; without any it stays, and that is said.

    Args:
        page: that is changed.
        parts: name → Markdown.

    Raises:
        ArtifactError: the page cannot be read or written.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {page}: {error}", "name another page") from error
    written = []
    for part, content in parts.items():
        updated = with_part(text, part, content)
        if updated is not None:
            text = updated
            written.append(part)
    if not written:
        wanted = " or ".join(markers(part)[0] for part in parts)
        console.print(f"{page} is as it was: it has no {wanted}")
        return
    write_bytes(page, text.encode(), flags="--update-page")
    console.print(f"wrote {' and '.join(written)} into {page}")
