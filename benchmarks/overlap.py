"""Does `predict` keep the slower of its stages busy all the time?

    python benchmarks/overlap.py RUN DIR [--backend ort] [--batch 1] [--json FILE]

    decode alone    pictures per second that the threads decode, with nothing else to do
    compute alone   the runner's stream over pictures that are decoded already
    predict         from files to masks and journal on the disk, everything at once
    share           predict, over the slower of the two stages of the same repeat
    CPU time        of all threads, for a picture: computing alone, and in predict

The three take turns in every repeat, in rotating order, so that a slow minute of the machine hits
all of them.  On a CPU decoding and writing take cores from the network: there the share says what
they cost, too, and CPU time says it with less noise.  Where computing alone keeps all cores busy
and is the slower stage, the share can be no larger than its CPU time over that of predict.

Repeats of one run share its minutes, so the interval of the share is bootstrapped by run: whole
runs are drawn with replacement, and the median of their repeats is taken, many times.  Fewer than
five runs have no interval.

FILE keeps every run of one backend with one model file on one kind of machine: a run is appended to
the runs that are in it, and what is printed is of all their repeats.  A file of anything else is
refused before anything is measured.  In FILE, kind "overlap", schema 3:

    backend, precision, threads, digest, batch, cpu, cores    what all its runs have in common
    runs [created, commit | null, machine, versions, conditions, runner, pictures, batch,
          picture_threads, and each repeat of: pictures_per_s {stage}, cpu_ms_per_picture {stage}
          | null where it was not measured, share_of_the_slower_stage]

``commit`` ends in "+" where the package was changed since.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import click

from fcn_deploy.commands.shared.backends import open_backend
from fcn_deploy.commands.shared.console import bar, console
from fcn_deploy.commands.shared.options import threads_option
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.files import read_json, write_json
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
from fcn_deploy.machine.description import describe_machine, usable_cores
from fcn_deploy.machine.sensors import system_load
from fcn_deploy.predict.job import PredictJob
from fcn_deploy.predict.sources import Sources
from fcn_deploy.results.environment import result_header
from fcn_deploy.results.fields import Fields
from fcn_deploy.runners.base import Runner

OVERLAP, OVERLAP_SCHEMA = "overlap", 3
MIN_REPEATS = 3
MIN_RUNS_FOR_INTERVAL, RESAMPLES = 5, 2000
STAGES = DECODE, COMPUTE, PREDICT = "decode alone", "compute alone", "predict"
#: What to do about a file that a run cannot be appended to.
ANOTHER_FILE = "name another file"


def decode_alone(files: Sequence[Path], batch_size: int) -> None:
    with picture_threads() as pool:
        for _ in all_readable(decoded_ahead(files, pool, lookahead(batch_size))):
            pass


def compute_alone(runner: Runner, batches: Sequence[Batch]) -> None:
    for _ in runner.stream(batch.images for batch in batches):
        pass


def predict_all(runner: Runner, files: Sequence[Path], batch_size: int, scratch: Path) -> None:
    out = Path(tempfile.mkdtemp(dir=scratch))
    with Sources([str(file) for file in files]) as sources, PredictJob(sources, out) as job:
        job.begin(runner)
        for prediction in job.predictions(runner, batch_size=batch_size):
            if prediction.error is not None:
                raise prediction.error
    shutil.rmtree(out)


@dataclass(frozen=True)
class Pace:
    """The rate and the CPU time of each stage, repeat by repeat.

    Attributes:
        pictures_per_s: by the clock.
        cpu_ms: CPU time of all threads of this process for one picture; shorter than the rates
            where some runs did not measure it.
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


def common_to_runs(runner: Runner, batch_size: int) -> dict[str, Any]:
    """Return what has to be the same in all runs of one file, as JSON values."""
    description, machine = runner.describe(), describe_machine()
    return {
        "backend": description.backend,
        "precision": description.precision,
        "threads": description.threads,
        "digest": description.digest,
        "batch": batch_size,
        "cpu": machine["cpu"],
        "cores": machine["cores"],
    }


def recorded_runs(file: Path, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that a result file holds; none where there is no file yet.

    Raises:
        ArtifactError: it is unreadable or damaged.
        InputError: it is of another kind or schema, or its runs differ in ``common``.
    """
    if not file.exists():
        return []
    document = read_json(file, ANOTHER_FILE)
    written = {name: document.get(name) for name in ("kind", "schema", *common)}
    for name, own in {"kind": OVERLAP, "schema": OVERLAP_SCHEMA, **common}.items():
        if written[name] != own:
            raise InputError(f"{file} has {name} {written[name]}, this run {own}", ANOTHER_FILE)
    runs = Fields(document, file, ANOTHER_FILE).children("runs")
    for run in runs:
        rates, cpu = run.child("pictures_per_s"), run.child_or_none("cpu_ms_per_picture")
        repeats = len(rates.numbers(PREDICT))
        for stages in (rates, cpu) if cpu else (rates,):
            for stage in STAGES:
                stages.numbers(stage, repeats)
    return [dict(run.values) for run in runs]


def source_commit() -> str | None:
    """Return the commit of this checkout, with "+" where the package was changed since."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)

    try:
        commit = git("rev-parse", "--short=7", "HEAD")
        changed = git("diff", "--quiet", "HEAD", "--", "fcn_deploy")
    except OSError:  # no git
        return None
    if commit.returncode:  # no checkout
        return None
    return commit.stdout.strip() + ("+" if changed.returncode else "")


def run_to_json(
    runner: Runner, pictures: int, batch_size: int, pace: Pace, load_before: float | None
) -> dict[str, Any]:
    """Return one run as JSON values, with the header that a file of one run would have."""
    header = result_header(OVERLAP, OVERLAP_SCHEMA)
    return {
        "created": header["created"],
        "commit": source_commit(),
        "machine": header["machine"],
        "versions": header["versions"],
        "conditions": {"load_before": load_before, "load_after": system_load()},
        "runner": runner.describe().to_json(),
        "pictures": pictures,
        "batch": batch_size,
        "picture_threads": usable_cores(),
        "pictures_per_s": pace.pictures_per_s,
        "cpu_ms_per_picture": pace.cpu_ms,
        "share_of_the_slower_stage": shares(pace.pictures_per_s),
    }


def pooled(runs: Sequence[Mapping[str, Any]]) -> Pace:
    """Return the repeats of all runs, one run after the other."""
    rates, cpu = (
        {stage: [x for run in runs for x in (run[name] or {}).get(stage, ())] for stage in STAGES}
        for name in ("pictures_per_s", "cpu_ms_per_picture")
    )
    return Pace(rates, cpu)


def share_interval(shares_of_runs: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the 95 % interval of the median share, bootstrapped by run.

    Args:
        shares_of_runs: of each run, one for each repeat.

    Returns:
        The interval; None where the runs are too few to be drawn from.
    """
    if len(shares_of_runs) < MIN_RUNS_FOR_INTERVAL:
        return None
    draw = random.Random(0)  # the same interval for the same file
    medians = sorted(
        statistics.median(chain.from_iterable(draw.choices(shares_of_runs, k=len(shares_of_runs))))
        for _ in range(RESAMPLES)
    )
    tail = round(0.025 * RESAMPLES)
    return medians[tail], medians[-1 - tail]


def print_pace(pace: Pace, shares_of_runs: Sequence[Sequence[float]]) -> None:
    runs = len(shares_of_runs)
    noun = "run" if runs == 1 else "runs"
    console.print(f"{len(pace.pictures_per_s[PREDICT])} repeats in {runs} {noun}")
    for stage, values in pace.pictures_per_s.items():
        console.print(f"{stage:14} {spread(values, '.2f')} pictures/s")
    console.print(f"{'share':14} {spread(shares(pace.pictures_per_s), '.1%')} of the slower stage")
    interval = share_interval(shares_of_runs)
    if interval is None:
        words = f"none: fewer than {MIN_RUNS_FOR_INTERVAL} runs"
    else:
        words = f"{interval[0]:.1%} to {interval[1]:.1%}, bootstrapped by run"
    console.print(f"{'its interval':14} {words}")
    console.print(
        f"{'CPU time':14} computing {spread(pace.cpu_ms[COMPUTE], '.1f')} ms a picture, "
        f"predict {spread(pace.cpu_ms[PREDICT], '.1f')}"
    )


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
    "--json", "json_file", type=click.Path(path_type=Path), help="Append the run to this JSON file."
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
        common = common_to_runs(runner, batch_size)
        runs = recorded_runs(json_file, common) if json_file is not None else []
        load_before = system_load()
        pace = measured(runner, files, batch_size, repeats)
        runs.append(run_to_json(runner, len(files), batch_size, pace, load_before))
    print_pace(pooled(runs), [run["share_of_the_slower_stage"] for run in runs])
    if json_file is not None:
        write_json(json_file, {"schema": OVERLAP_SCHEMA, "kind": OVERLAP, **common, "runs": runs})


def main() -> None:
    """Run the command; an error is one line, as in the package's own commands."""
    try:
        overlap()
    except FcnDeployError as error:
        click.echo(f"overlap: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
