"""Does `predict` keep the slower of its stages busy all the time?

    python benchmarks/overlap.py RUN DIR [--backend ort] [--batch 1] [--json FILE]

    decode alone    pictures per second that the threads decode, with nothing else to do
    compute alone   the runner's stream over pictures that are decoded already
    predict         from files to masks on the disk, everything at once
    share           predict, over the slower of the two stages of the same repeat
    CPU time        of all threads, for a picture: computing alone, and in predict

The three take turns in every repeat, in rotating order, so that a slow minute of the machine hits
all of them.  On a CPU decoding and writing take cores from the network: there the share says what
they cost, too, and CPU time says it with less noise.  Where computing alone keeps all cores busy
and is the slower stage, the share can be no larger than its CPU time over that of predict.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.backends import open_backend
from fcn_deploy.commands.shared.console import bar, console
from fcn_deploy.commands.shared.options import threads_option
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.images import find_images
from fcn_deploy.data.pipeline import (
    Batch,
    all_readable,
    batches_of_one_size,
    decoded_ahead,
    lookahead,
    picture_threads,
)
from fcn_deploy.machine.description import usable_cores
from fcn_deploy.machine.sensors import system_load
from fcn_deploy.predict.folder import predict
from fcn_deploy.results.environment import result_header
from fcn_deploy.runners.base import Runner

MIN_REPEATS = 3
DECODE, COMPUTE, PREDICT = "decode alone", "compute alone", "predict"


def decode_alone(files: Sequence[Path], batch_size: int) -> None:
    with picture_threads() as pool:
        for _ in all_readable(decoded_ahead(files, pool, lookahead(batch_size))):
            pass


def compute_alone(runner: Runner, batches: Sequence[Batch]) -> None:
    for _ in runner.stream(batch.images for batch in batches):
        pass


def predict_all(runner: Runner, files: Sequence[Path], batch_size: int, scratch: Path) -> None:
    out = Path(tempfile.mkdtemp(dir=scratch))
    for prediction in predict(runner, files, out, batch_size=batch_size):
        if prediction.error is not None:
            raise prediction.error
    shutil.rmtree(out)


@dataclass(frozen=True)
class Pace:
    """What each stage took, repeat by repeat.

    Attributes:
        pictures_per_s: by the clock.
        cpu_ms: CPU time of all threads of this process for one picture.
    """

    pictures_per_s: dict[str, list[float]]
    cpu_ms: dict[str, list[float]]


def interleaved(stages: dict[str, Callable[[], None]], pictures: int, repeats: int) -> Pace:
    pace = Pace({name: [] for name in stages}, {name: [] for name in stages})
    names = list(stages)
    with bar("overlap") as show:
        for repeat in range(repeats):
            for step in range(len(names)):
                name = names[(step + repeat) % len(names)]
                cpu, started = time.process_time(), time.perf_counter()
                stages[name]()
                pace.pictures_per_s[name].append(pictures / (time.perf_counter() - started))
                pace.cpu_ms[name].append((time.process_time() - cpu) / pictures * 1e3)
                show(repeat * len(names) + step + 1, repeats * len(names))
    return pace


def shares(rates: dict[str, list[float]]) -> list[float]:
    """Return what predict reaches of the slower stage, repeat by repeat."""
    paired = zip(rates[DECODE], rates[COMPUTE], rates[PREDICT], strict=True)
    return [everything / min(decode, compute) for decode, compute, everything in paired]


def spread(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return f"{format(statistics.median(values), form)} ({low} to {high})"


def measured(runner: Runner, files: Sequence[Path], batch_size: int, repeats: int) -> Pace:
    with picture_threads() as pool:
        decoded = all_readable(decoded_ahead(files, pool, lookahead(batch_size)))
        batches = list(batches_of_one_size(decoded, batch_size))
    with tempfile.TemporaryDirectory() as scratch:
        stages: dict[str, Callable[[], None]] = {
            DECODE: lambda: decode_alone(files, batch_size),
            COMPUTE: lambda: compute_alone(runner, batches),
            PREDICT: lambda: predict_all(runner, files, batch_size, Path(scratch)),
        }
        for stage in stages.values():  # files in the cache, kernels chosen, pages touched
            stage()
        return interleaved(stages, len(files), repeats)


def document(
    runner: Runner,
    files: Sequence[Path],
    batch_size: int,
    pace: Pace,
    load_before: float | None,
) -> dict[str, Any]:
    return {
        **result_header("overlap", 2),
        "conditions": {"load_before": load_before, "load_after": system_load()},
        "runner": runner.describe().to_json(),
        "pictures": len(files),
        "batch": batch_size,
        "picture_threads": usable_cores(),
        "pictures_per_s": pace.pictures_per_s,
        "cpu_ms_per_picture": pace.cpu_ms,
        "share_of_the_slower_stage": shares(pace.pictures_per_s),
    }


@click.command()
@click.argument("run")
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--backend", default="ort", show_default=True)
@click.option("--precision", type=click.Choice([p.value for p in Precision]), default="fp32")
@click.option("--batch", "batch_size", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many pictures.")
@click.option("--repeats", type=click.IntRange(min=MIN_REPEATS), default=5, show_default=True)
@threads_option
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), help="Also write a JSON file."
)
def overlap(
    run: str,
    directory: Path,
    backend: str,
    precision: str,
    batch_size: int,
    limit: int | None,
    repeats: int,
    threads: int | None,
    json_file: Path | None,
) -> None:
    """Measure decoding, computing, and `predict`, which does both at once and writes."""
    files = find_images([directory])[:limit]
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]} is there twice", "give a folder of pictures alone")
    source = run_from_argument(run, trust=False)
    with open_backend(source, backend, precision=Precision(precision), threads=threads) as runner:
        load_before = system_load()
        pace = measured(runner, files, batch_size, repeats)
        found = document(runner, files, batch_size, pace, load_before)
    for name, values in pace.pictures_per_s.items():
        console.print(f"{name:14} {spread(values, '.2f')} pictures/s")
    console.print(f"{'share':14} {spread(shares(pace.pictures_per_s), '.1%')} of the slower stage")
    console.print(
        f"{'CPU time':14} computing {spread(pace.cpu_ms[COMPUTE], '.1f')} ms a picture, "
        f"predict {spread(pace.cpu_ms[PREDICT], '.1f')}"
    )
    if json_file is not None:
        write_json(json_file, found)


def main() -> None:
    """Run the command; an error is one line, as in the package's own commands."""
    try:
        overlap()
    except FcnDeployError as error:
        click.echo(f"overlap: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
