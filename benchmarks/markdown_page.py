"""A bench as a part of a Markdown page: one table for each group, and what a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_bytes
from fcn_deploy.results.bench import OFFLINE, SINGLE_STREAM, Bench
from fcn_deploy.results.bench_table import BenchGroup, Table, bench_groups, valid_means
from fcn_deploy.results.workload import LOADGEN

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
#: Columns of a higher rank are left to the report: a page is narrower.
MAX_RANK = 2
_HOW = {
    SINGLE_STREAM: "single stream",
    OFFLINE: "offline (time per batch at the throughput of all pictures at once)",
}


def markdown(bench: Bench, left_out: Sequence[str] = ()) -> str:
    """Return the tables, one for each tier, batch and size, fastest first, with what to know.

    Args:
        bench: what was measured.
        left_out: sentences: who is missing, and why.
    """
    parts = [_heading(bench)]
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
    machine, threads = bench.environment.properties, bench.conditions.threads
    words = [
        machine["cpu"], _plural(int(machine["cores"]), "core"), _plural(threads, "thread"),
    ]  # fmt: skip
    gpus = [sensor.name for sensor in bench.conditions.gpu_before if sensor.name is not None]
    by = f"MLPerf LoadGen {bench.clock_version}" if bench.clock == LOADGEN else "a timed loop"
    by += f" ({meaning})" if (meaning := valid_means(bench)) else ""
    first = bench.rows[0]
    repeats = max(len(row.repeats_ms) for row in bench.rows)
    asked = f"{repeats} interleaved repeats, {_HOW.get(first.scenario, first.scenario)} by {by}"
    return f"{', '.join([*words, *gpus])}; {bench.environment.created[:10]}; {asked}."


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _group(group: BenchGroup) -> Iterator[str]:
    """Yield the table of the rows that may be ranked, and which of them are too close to call."""
    table = group.table.up_to(MAX_RANK)
    yield f"**{group.title}** ({group.about}):\n\n{markdown_table(table)}"
    if group.ties:
        yield f"Too close to call: {'; '.join(f'{one} and {other}' for one, other in group.ties)}."


def markdown_table(table: Table) -> str:
    """Return a table's lines."""
    lines = [
        [column.title for column in table.columns],
        ["---:" if column.is_figure else "---" for column in table.columns],
        *([str(cell).replace("|", "\\|") for cell in row.cells] for row in table.rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_table(text: str, tables: str) -> str | None:
    """Return a text with what stands between its markers replaced, or None where it has none."""
    begin, end = text.find(BEGIN), text.find(END)
    if begin < 0 or end < begin:
        return None
    return f"{text[: begin + len(BEGIN)]}\n\n{tables.strip()}\n\n{text[end:]}"


def update_page(page: Path, tables: str) -> None:
    """Write the tables between a page's markers; a page without them stays, and that is said.

    Raises:
        ArtifactError: the page cannot be read or written.
    """
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {page}: {error}", "name another page") from error
    updated = with_table(text, tables)
    if updated is None:
        console.print(f"{page} is as it was: it has no {BEGIN} and {END}")
        return
    write_bytes(page, updated.encode(), flags="--update-page")
    console.print(f"wrote the table into {page}")
