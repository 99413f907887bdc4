"""What `fcn-deploy serve` costs beside the runner alone, and beside NVIDIA's tritonserver.

    PYTHONPATH=. python benchmarks/serving.py JSON --triton ENVIRONMENT [--rounds 3] [--rate 20]

ENVIRONMENT is what `python tests/triton/environment.py ENVIRONMENT` makes.  Exports a network of
random weights, starts `fcn-deploy serve` and the real tritonserver on the repository that `package
triton` writes, both with one thread of ONNX Runtime, and asks both by NVIDIA's client over HTTP and
gRPC, one picture of 320×480 a request.  The cases take turns, in another order in each round:

    runner     runner.run alone, in this process
    1, 8, 32   so many threads of the client, one request after another each
    loadgen    MLPerf LoadGen's server scenario: 662 queries at random moments; p99 below 50 ms?

Every mask is held against the runner's.  Triton's ONNX backend in C++ is in no wheel: a backend in
Python that calls ONNX Runtime stands in for it, so its figures are not those of Triton's own.  In
JSON, kind "serving", schema 1:

    network, shape [N, H, W], threads, command, conditions, servers {name: version}
    rounds [{load_average, other_cores, runner {p50_ms, cpu_ms}, cases [{server, protocol,
             "1" | "8" | "32" {requests, per_s, p50_ms, p99_ms, cpu_ms, own_cpu_ms}, loadgen {…}}]}]

``cpu_ms`` is of the server and its children for each request; ``own_cpu_ms`` is what of that was
spent outside `runner.run`, where the server says so (fcn-deploy, by `/metrics`; with one thread of
ONNX Runtime all of `runner.run` is in one thread).  ``other_cores`` is how many cores worked for
others than the servers and this process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bench import loadgen
from fcn_deploy.core.errors import MeasurementError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.results.environment import Environment
from fcn_deploy.runners.base import Runner, open_runner
from tests.serve.served import ROOT
from tests.triton.environment import SERVER
from tests.triton.server import running

SERVING, SERVING_SCHEMA = "serving", 1
ARCHITECTURE, CLASSES, SHAPE = "fcn32s-mobilenet_v3_small", 21, (1, 320, 480)
PICTURES, THREADS, WARM_UP = 8, (1, 8, 32), 5
#: Of LoadGen: the bound of p99, and how many requests its client has under way at most.
BOUND_MS, WORKERS = 50.0, 16
_TICKS = os.sysconf("SC_CLK_TCK")

#: Asks for the mask of the picture with this number, and checks it.
Ask = Callable[[int], None]


@dataclass(frozen=True)
class Case:
    """A server, asked over one protocol.

    Attributes:
        server: its name.
        protocol: ``http`` or ``grpc``, as the client's modules are called.
        url: host and port.
        process: its id; its children belong to it.
        metrics: URL of what says how long its runner has computed, or None.
    """

    server: str
    protocol: str
    url: str
    process: int
    metrics: str | None = None

    def runner_seconds(self) -> float:
        """Return the CPU time of all runs of its runner, or NaN where it does not say it."""
        if self.metrics is None:
            return float("nan")
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            text = answer.read().decode()
        return float(re.findall(r"^fcn_deploy_runner_cpu_seconds_total (.+)$", text, re.M)[0])

    def client(self, images: Sequence[NDArray[np.uint8]], masks: Sequence[Any]) -> Ask:
        """Return a client of its own for the thread that calls this."""
        module = import_module(f"tritonclient.{self.protocol}")
        client = module.InferenceServerClient(self.url)
        tensors = []
        for image in images:
            tensor = module.InferInput("image", list(image.shape), "UINT8")
            tensors.append([tensor.set_data_from_numpy(image)])

        def ask(index: int) -> None:
            mask = client.infer("fcn", tensors[index]).as_numpy("mask")
            if not np.array_equal(mask, masks[index]):
                raise MeasurementError(f"{self.server} over {self.protocol}: a wrong mask")

        return ask


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What serving costs.")
    parser.add_argument("json", type=Path)
    parser.add_argument("--triton", type=Path, required=True, metavar="ENVIRONMENT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each number of threads")
    parser.add_argument("--rate", type=float, default=20.0, help="LoadGen's queries a second")
    parser.add_argument("--conditions", default="", help="what else ran, in words")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        run = exported(folder / "fcn")
        runner = stack.enter_context(open_runner(run, "ort", threads=1, device="cpu"))
        cases = list(stack.enter_context(ours(run, folder)))
        cases += stack.enter_context(tritons(run, folder, asked.triton))
        generator = np.random.default_rng(0)
        images = [generator.integers(0, 256, (*SHAPE, 3), dtype=np.uint8) for _ in range(PICTURES)]
        masks = [runner.run(image).mask for image in images]
        rounds = []
        for index in range(asked.rounds):
            order = cases[index % len(cases) :] + cases[: index % len(cases)]
            rounds.append(measured(runner, order, images, masks, asked.seconds, asked.rate))
        document = {
            **Environment.current().to_json(SERVING, SERVING_SCHEMA),
            "network": f"{ARCHITECTURE}, {CLASSES} classes, random weights",
            "shape": list(SHAPE),
            "threads": 1,
            "command": shlex.join(["python", *sys.argv]),
            "conditions": asked.conditions,
            "servers": {"fcn-deploy": "this commit", "tritonserver": f"2.51.0 of {SERVER}"},
            "rounds": rounds,
        }
    write_json(asked.json, document)
    print("\n".join(table(document)))


def exported(folder: Path) -> Run:
    """Write the network."""
    import torch

    from fcn_deploy.export.exporter import onnx_from_checkpoint
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    torch.manual_seed(0)
    torch.set_num_threads(1)
    spec = ModelSpec(
        architecture=ARCHITECTURE,
        class_names=tuple(f"class {index}" for index in range(CLASSES)),
        palette=voc_palette(CLASSES),
        image_sizes=SizeRange(*[SHAPE[1:]] * 3),
    )
    run = Run(folder)
    folder.mkdir()
    save_checkpoint(run.checkpoint, build_model(ARCHITECTURE, CLASSES).eval(), spec)
    # Checked by the masks below; of random weights a check of the logits says little.
    onnx_from_checkpoint(run.checkpoint, folder / "model.onnx", checked=False)
    return run


@contextmanager
def ours(run: Run, folder: Path) -> Iterator[list[Case]]:
    """Serve with `fcn-deploy serve`."""
    words = ["serve", str(run.root), "--backend", "ort", "--threads", "1", "--port", "0"]
    words += ["--grpc-port", "0", "--drain-seconds", "0"]
    log = folder / "serve.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "fcn_deploy", *words],
            stderr=stream, stdout=subprocess.DEVNULL, cwd=ROOT,
        )  # fmt: skip
    try:
        while '"event": "ready"' not in (text := log.read_text()):
            if process.poll() is not None:
                raise MeasurementError(f"fcn-deploy serve did not start: {text[-500:]}")
            time.sleep(0.1)
        found = re.search(r'"url": "http://([^"]+)", "grpc_port": (\d+)', text)
        assert found is not None
        urls = {"http": found[1], "grpc": f"127.0.0.1:{found[2]}"}
        metrics = f"http://{urls['http']}/metrics"
        yield [Case("fcn-deploy", name, url, process.pid, metrics) for name, url in urls.items()]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def tritons(run: Run, folder: Path, environment: Path) -> Iterator[list[Case]]:
    """Serve with the real tritonserver, from the repository that `package triton` writes."""
    words = ["package", "triton", str(run.root), "--out", str(folder / "models"), "--name", "fcn"]
    subprocess.run([sys.executable, "-m", "fcn_deploy", *words], check=True, cwd=ROOT)
    (folder / "triton").mkdir()
    with running(environment, [folder / "models"], folder / "triton") as server:
        yield [
            Case("tritonserver", protocol, url, server.process)
            for protocol, url in (("http", server.http), ("grpc", server.grpc))
        ]


def measured(
    runner: Runner,
    cases: Sequence[Case],
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[Any],
    seconds: float,
    rate: float,
) -> dict[str, Any]:
    """Measure every case once."""
    began, busy, used = time.perf_counter(), busy_seconds(), cpu_seconds(os.getpid())
    found: dict[str, Any] = {"load_average": round(os.getloadavg()[0], 2)}
    found["runner"] = alone(runner, images, seconds)
    found["cases"] = []
    for case in cases:
        row: dict[str, Any] = {"server": case.server, "protocol": case.protocol}
        for threads in THREADS:
            row[str(threads)] = load(case, images, masks, threads, seconds)
        row["loadgen"] = scenario(case, images, masks, rate)
        found["cases"].append(row)
        print(row, flush=True)
    others = busy_seconds() - busy - (cpu_seconds(os.getpid()) - used)  # the servers are below it
    found["other_cores"] = round(others / (time.perf_counter() - began), 2)
    return found


def alone(runner: Runner, images: Sequence[NDArray[np.uint8]], seconds: float) -> dict[str, Any]:
    """Time the runner without a server."""
    for image in images[:WARM_UP]:
        runner.run(image)
    times: list[float] = []
    cpu, until = time.process_time(), time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        runner.run(images[len(times) % len(images)])
        times.append(time.perf_counter() - began)
    cpu = time.process_time() - cpu
    return {"runs": len(times), **_figures(times), "cpu_ms": round(1e3 * cpu / len(times), 3)}


def load(
    case: Case,
    images: Sequence[NDArray[np.uint8]],
    masks: Sequence[Any],
    threads: int,
    seconds: float,
) -> dict[str, Any]:
    """Ask from so many threads, each one request after another."""
    times: list[float] = []
    errors: list[BaseException] = []
    gate = threading.Barrier(threads + 1)
    until = 0.0

    def work(first: int) -> None:
        try:
            ask = case.client(images, masks)
            for index in range(WARM_UP if threads == 1 else 1):
                ask(index)
            gate.wait()
            gate.wait()  # the clock has begun
            index = first
            while (began := time.perf_counter()) < until:
                ask(index % len(images))
                times.append(time.perf_counter() - began)
                index += 1
        except BaseException as error:
            errors.append(error)
            gate.abort()

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    with suppress(threading.BrokenBarrierError):
        gate.wait()
    run = case.runner_seconds()
    cpu, began = cpu_seconds(case.process), time.perf_counter()
    until = began + seconds
    with suppress(threading.BrokenBarrierError):
        gate.wait()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    elapsed = time.perf_counter() - began
    cpu = cpu_seconds(case.process) - cpu
    own = cpu - (case.runner_seconds() - run)
    return {
        "requests": len(times),
        "per_s": round(len(times) / elapsed, 1),
        **_figures(times),
        "cpu_ms": round(1e3 * cpu / len(times), 3),
        **({} if case.metrics is None else {"own_cpu_ms": round(1e3 * own / len(times), 3)}),
    }


def scenario(
    case: Case, images: Sequence[NDArray[np.uint8]], masks: Sequence[Any], rate: float
) -> dict[str, Any]:
    """Ask at random moments, as LoadGen's server scenario does."""
    clients = threading.local()

    def answer(numbers: Sequence[int]) -> None:
        if not hasattr(clients, "ask"):
            clients.ask = case.client(images, masks)
        for number in numbers:
            clients.ask(number)

    tested = loadgen.server(
        answer, samples=len(images), min_seconds=1.0, rate=rate, target_p99_ms=BOUND_MS,
        max_batch=1, workers=WORKERS,
    )  # fmt: skip
    said = [name for name in ("p50", "p90", "p99") if name in tested.latency_ms]
    latency = {f"{name}_ms": round(tested.latency_ms[name], 2) for name in said}
    return {"rate": rate, "queries": tested.samples, "valid": tested.verdict.valid, **latency}


def _figures(times: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(times) * 1e3, (50, 99))
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def busy_seconds() -> float:
    """Return how long the cores of this machine have worked, for whomever."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / _TICKS


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a process and of all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    family = {process}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    clock, seconds = ctypes.c_int(), 0.0
    for member in family:  # /proc has hundredths of a second alone
        if ctypes.CDLL(None).clock_getcpuclockid(member, ctypes.byref(clock)) == 0:
            seconds += time.clock_gettime(clock.value)
    return seconds


def table(document: dict[str, Any]) -> list[str]:
    """Return medians over the rounds, as lines of Markdown."""
    rounds = document["rounds"]
    runner = {
        name: statistics.median(one["runner"][name] for one in rounds)
        for name in ("p50_ms", "cpu_ms")
    }
    lines = [
        f"`runner.run` alone: p50 {runner['p50_ms']:.1f} ms, CPU {runner['cpu_ms']:.1f} ms.",
        "",
        "| server | protocol | p50 beyond the runner alone | CPU beyond it | own CPU of 1, 8, 32 "
        "threads | requests/s of these | LoadGen p99 |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in sorted(rounds[0]["cases"], key=lambda case: (case["server"], case["protocol"])):
        name = (case["server"], case["protocol"])
        every = [(one["runner"], other) for one in rounds for other in one["cases"]]
        rows = [(own, row) for own, row in every if (row["server"], row["protocol"]) == name]
        beyond = {
            figure: statistics.median(row["1"][figure] - own[figure] for own, row in rows)
            for figure in ("p50_ms", "cpu_ms")
        }
        rates = [statistics.median(row[str(n)]["per_s"] for _, row in rows) for n in THREADS]
        spent = "–"
        if "own_cpu_ms" in rows[0][1]["1"]:
            counted = [[row[str(n)]["own_cpu_ms"] for _, row in rows] for n in THREADS]
            spent = ", ".join(f"{statistics.median(each):.1f}" for each in counted) + " ms"
        p99 = statistics.median(row["loadgen"]["p99_ms"] for _, row in rows)
        valid = sum(row["loadgen"]["valid"] for _, row in rows)
        lines.append(
            f"| {name[0]} | {name[1]} | {beyond['p50_ms']:.1f} ms | {beyond['cpu_ms']:.1f} ms | "
            f"{spent} | {', '.join(f'{rate:.0f}' for rate in rates)} | {p99:.0f} ms, "
            f"valid in {valid} of {len(rows)} |"
        )
    return lines


if __name__ == "__main__":
    main()
