"""How long `predict --resume` takes to find out what is left of millions of pictures.

    python benchmarks/journal.py FOLDER [--lines 10000000] [--json FILE]

FOLDER is filled with that many pictures (hard links to a few, in folders of 10,000), as many masks
and a journal with a line for each but the last 1,000 of them, unless it holds these already.  Then
a fresh process does what `predict FOLDER/pictures --recursive --resume` does before it computes: it
reads the journal, lists the pictures, asks each whether it has changed, lists the masks, and is
left with 1,000.  Files that were made just before lie in the system's cache; a network file system
is slower.

In FILE, kind "journal", schema 1: lines, journal_bytes, left, read_seconds (the journal alone),
seconds (all), cpu_seconds, peak_mib (of the process), machine and versions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from fcn_deploy.commands.shared.console import console
from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.files import write_json
from fcn_deploy.data.masks import voc_palette, write_mask
from fcn_deploy.machine.sensors import system_load
from fcn_deploy.predict.items import file_item
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.journal import Journal, JournalHead
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.predict.sources import Sources
from fcn_deploy.results.environment import result_header

JOURNAL, JOURNAL_SCHEMA = "journal", 1
A_FOLDER, LEFT = 10_000, 1_000
CLASSES = ("road", "car", "person", "sky", "tree")
#: What a line of a street scene holds beside its names.
VALUES: dict[str, Any] = {
    "size": [360, 480], "ms": 21.4,
    "shares": {"road": 0.412345, "car": 0.103456, "person": 0.012345, "sky": 0.2, "tree": 0.271854},
    "error": None,
}  # fmt: skip


def made(folder: Path, count: int) -> None:
    """Make pictures, masks and the journal."""
    pictures, masks = folder / "pictures", folder / "masks"
    with Journal(masks, None, resume=False) as journal:
        head = JournalHead("sha256:simulated", "fp32", "ort", overlay=False, classes=CLASSES)
        journal.begin(head)
        for begin in range(0, count, A_FOLDER):
            _fill(pictures, masks, begin, min(begin + A_FOLDER, count), count - LEFT, journal)


def _fill(
    pictures: Path, masks: Path, begin: int, end: int, finished: int, journal: Journal
) -> None:
    inner = f"camera-{begin // A_FOLDER:04}"
    for folder in (pictures, masks):
        (folder / inner).mkdir(parents=True)
    picture, mask = pictures / inner / "first.jpg", masks / inner / "first.png"
    Image.new("RGB", (48, 36)).save(picture)
    write_mask(mask, np.zeros((36, 48), np.uint8), voc_palette())
    state = file_item(str(picture)).state()
    lines = []
    for number in range(begin, end):
        name = f"{inner}/frame-{number:08}"
        os.link(picture, f"{pictures}/{name}.jpg")
        if number < finished:
            os.link(mask, f"{masks}/{name}.png")
            source = f"{pictures}/{name}.jpg"
            values = {"source": source, "mask": f"{name}.png", **VALUES}
            lines.append(line_of(key_of(source, f"{name}.png"), state, values))
    for first in (picture, mask):
        first.unlink()
    # A link more or less leaves size and time of change as they are.
    journal.append(b"".join(lines))


def resumed(folder: Path) -> dict[str, Any]:
    """Do what a run does before it computes; return the figures."""
    begun = time.perf_counter()
    with Journal(folder / "masks", None, resume=True) as journal:
        read_seconds = time.perf_counter() - begun
        lines = len(journal.finished)
    del journal
    cpu, begun = time.process_time(), time.perf_counter()
    with (
        Sources([str(folder / "pictures")], recursive=True) as sources,
        PredictJob(sources, folder / "masks", resume=True) as job,
    ):
        left = len(job.selection.items)
    return {
        "lines": lines,
        "left": left,
        "read_seconds": read_seconds,
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": _peak_mib(),
    }


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
    document = {
        **result_header(JOURNAL, JOURNAL_SCHEMA),
        "conditions": {"load_before": load_before, "load_after": system_load()},
        "journal_bytes": (folder / "masks" / "predictions.jsonl").stat().st_size,
        **found,
    }
    console.print(json.dumps({key: document[key] for key in ("journal_bytes", *found)}))
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
