"""How long `predict --resume` takes to find out what is left of millions of pictures.

    python benchmarks/journal.py FOLDER [--lines 10000000] [--json FILE]

FOLDER is given a list of that many names and a journal with a line for each but the last 1,000,
unless it holds these already; there are no such pictures and masks, as of more than a million the
journal is believed.  Then a fresh process does what `predict @list.txt --out FOLDER --resume` does
before it opens the network: it reads the journal and the list, hashes each name, and is left with
1,000.  Then 100,000 files are made and listed as a folder is.

In FILE, kind "journal", schema 1: lines, list_bytes, journal_bytes, left, read_seconds (the
journal alone), seconds (all), cpu_seconds, peak_mib (of the process), listing_us (for a file),
machine, versions and conditions.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.machine.sensors import system_load
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.journal_lines import key_of, keys_of, line_of
from fcn_deploy.predict.sources import Sources
from fcn_deploy.results.environment import result_header

JOURNAL, JOURNAL_SCHEMA = "journal", 1
LEFT, AT_ONCE, LISTED = 1_000, 10_000, 100_000
CLASSES = ("road", "car", "person", "sky", "tree")
#: What a line of a street scene holds beside its names.
VALUES: dict[str, Any] = {
    "size": [360, 480], "ms": 21.4,
    "shares": {"road": 0.412345, "car": 0.103456, "person": 0.012345, "sky": 0.2, "tree": 0.271854},
    "error": None,
}  # fmt: skip


def made(folder: Path, count: int) -> None:
    """Write the list and the journal."""
    folder.mkdir(parents=True)
    with (
        Journal(folder, None, resume=False) as journal,
        (folder / "list.txt").open("w", encoding="utf-8") as names,
    ):
        journal.begin(
            JournalHead("sha256:simulated", "fp32", "ort", overlay=False, classes=CLASSES)
        )
        for begin in range(0, count, AT_ONCE):
            numbers = range(begin, min(begin + AT_ONCE, count))
            masks = [f"frame-{number:08}.png" for number in numbers]
            sources = [f"/data/drive-{begin // AT_ONCE:04}/{mask[:-3]}jpg" for mask in masks]
            names.writelines(f"{source}\n" for source in sources)
            finished = max(0, count - LEFT - begin)
            journal.append(_lines(sources[:finished], masks[:finished]))


def _lines(sources: Sequence[str], masks: Sequence[str]) -> bytes:
    """Return what line_of gives for each, in a third of the time."""
    rest = json.dumps(VALUES, separators=(",", ":"))[1:]
    lines = [
        f'{{"key":"{key:016x}","state":"{1:016x}","source":"{source}","mask":"{mask}",{rest}\n'
        for key, source, mask in zip(keys_of(sources, masks).tolist(), sources, masks, strict=True)
    ]
    if lines:
        values = {"source": sources[0], "mask": masks[0], **VALUES}
        assert lines[0].encode() == line_of(key_of(sources[0], masks[0]), 1, values)
    return "".join(lines).encode()


def resumed(folder: Path) -> dict[str, Any]:
    """Do what a run does before it opens the network; return the figures."""
    cpu, begun = time.process_time(), time.perf_counter()
    with Sources([f"@{folder / 'list.txt'}"]) as sources:
        with Journal(folder, None, resume=True) as journal:
            lines = len(journal.finished)
        read_seconds = time.perf_counter() - begun
        del journal
        cpu_again, again = time.process_time(), time.perf_counter()
        with PredictJob(sources, folder, resume=True) as job:
            left = len(job.selection.items)
    return {
        "lines": lines,
        "left": left,
        "read_seconds": read_seconds,
        "seconds": time.perf_counter() - again,
        "cpu_seconds": time.process_time() - cpu_again,
        "read_cpu_seconds": cpu_again - cpu,
        "peak_mib": _peak_mib(),
    }


def listing_us(folder: Path) -> float:
    """Return microseconds for each file of a folder that is listed."""
    folder.mkdir()
    for number in range(LISTED):
        (folder / f"{number:06}.png").touch()
    begun = time.perf_counter()
    with Sources([str(folder)]) as sources:
        count = sum(len(batch.names) for batch in sources.batches())
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    return seconds / count * 1e6


def _peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--lines", type=click.IntRange(min=2 * LEFT), default=10_000_000, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def measure(folder: Path, lines: int, json_file: Path | None) -> None:
    """Measure how long a run takes to find out what is left."""
    if not folder.exists():
        begun = time.perf_counter()
        made(folder, lines)
        console.print(f"made in {time.perf_counter() - begun:.0f} s")
    load_before = system_load()
    # Another process: the memory of making all that is not its.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(resumed, folder).result()
    found["listing_us"] = listing_us(folder / "listed")
    document = {
        **result_header(JOURNAL, JOURNAL_SCHEMA),
        "conditions": {"load_before": load_before, "load_after": system_load()},
        "list_bytes": (folder / "list.txt").stat().st_size,
        "journal_bytes": (folder / "predictions.jsonl").stat().st_size,
        **found,
    }
    console.print(
        json.dumps({key: document[key] for key in ("list_bytes", "journal_bytes", *found)})
    )
    if json_file is not None:
        write_json(json_file, document)


def main() -> None:
    """Run the command; an error is one line, as in the package's own commands."""
    try:
        measure()
    except FcnDeployError as error:
        click.echo(f"journal: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
