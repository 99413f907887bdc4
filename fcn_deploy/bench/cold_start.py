"""What a backend costs before its first mask, measured in a process of its own.

    parent ──spawn──▶ import, open the runner, first mask, a few more ──one line of JSON──▶ parent
      │◀──────────────────── cold start ──────▶│

One backend's libraries and memory cannot pose as another's that way.  "Cold" is the process: the
files may lie in the system's cache.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn_deploy.core.errors import FcnDeployError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.machine import cuda
from fcn_deploy.results.conditions import ColdStart
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import open_runner

#: Batches after the first, so that memory reaches what the backend needs when it goes on.
MORE_RUNS = 3
#: Of the noise that is segmented.
SEED = 0
#: Of a ColdStart, what the child tells.
_FIELDS = (
    "cold_start_ms", "open_ms", "first_run_ms", "peak_rss_mib", "device_memory_mib", "error",
)  # fmt: skip


@dataclass(frozen=True)
class ColdStartPlan:
    """A runner to open in a fresh interpreter, and the pictures to give it.

    Attributes:
        run: as for :func:`fcn_deploy.runners.base.open_runner`, like what follows.
        runner: whose backend is opened, as it describes itself here.
        precision: of the file to take; what is computed in may be another one.
        threads: CPU threads; None leaves the library's own choice.
        device: ``auto``, ``cpu`` or ``cuda``.
        size: (height, width) in pixels of the first picture.
        largest: (N, height, width) of the batches after it, which memory must be there for.
        timeout_s: seconds after which the process is killed.
    """

    run: Run
    runner: RunnerDescription
    precision: Precision
    threads: int | None
    device: str
    size: tuple[int, int]
    largest: tuple[int, int, int]
    timeout_s: float

    def to_json(self) -> dict[str, Any]:
        """Return what the child has to know, as JSON values."""
        named_file = self.run.named_file
        return {
            "root": str(self.run.root),
            "named_file": None if named_file is None else str(named_file),
            "trusted": self.run.trusted,
            "bundle": None if self.run.bundle is None else str(self.run.bundle),
            "backend": self.runner.backend,
            "precision": self.precision.value,
            "threads": self.threads,
            "device": self.device,
            "size": list(self.size),
            "largest": list(self.largest),
        }


def measure_cold_start(plan: ColdStartPlan) -> ColdStart:
    """Open a runner in a fresh interpreter and measure what passes until its first mask.

    A child that fails, crashes or takes too long gives a :class:`ColdStart` with an ``error``.
    On Ctrl-C the child is killed.

    Raises:
        InputError: a size or the time limit is not positive.
    """
    if min(*plan.size, *plan.largest) < 1:
        height, width = plan.size
        raise InputError(f"a picture of {height}×{width} pixels", "use sizes from 1x1")
    if not plan.timeout_s > 0:
        raise InputError(f"a time limit of {plan.timeout_s} s", "allow more than 0 s")
    figures = _figures_of_child(plan)
    return ColdStart(plan.runner, plan.size, plan.largest, **figures)


def _figures_of_child(plan: ColdStartPlan) -> dict[str, Any]:
    # Before the child: there, asking would itself open the GPU and take from `open_ms`.
    order = {**plan.to_json(), "device_memory_before": _device_memory_in_use()}
    order["spawned_ns"] = _now_ns()
    try:
        # Whatever ends the waiting, a KeyboardInterrupt too, `run` kills the child.
        finished = subprocess.run(
            [sys.executable, "-m", "fcn_deploy.bench.cold_start", json.dumps(order)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=plan.timeout_s,
            env=_environment(os.environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no mask within {plan.timeout_s:g} s"}
    except OSError as error:
        return {"error": f"cannot start {sys.executable or 'Python'}: {error.strerror}"}
    return _read_figures(finished.stdout) or {"error": _exit_reason(finished)}


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    package_parent = Path(__file__).resolve().parents[2]
    # With `-m`, Python would search the current folder first, where a user's file may be named
    # like a library; a console script does not.  Python 3.10 knows no such switch.
    environment = {**inherited, "PYTHONSAFEPATH": "1"}
    # An installed package is found anyway, and site-packages must not hide the standard library.
    if package_parent.name not in ("site-packages", "dist-packages"):
        paths = [str(package_parent), inherited.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _read_figures(output: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(output)
        return {name: found[name] for name in _FIELDS}
    except (ValueError, TypeError, KeyError):
        return None


def _exit_reason(finished: subprocess.CompletedProcess[bytes]) -> str:
    code = finished.returncode
    try:
        end = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    except ValueError:
        end = f"by signal {-code}"
    said = finished.stderr.decode(errors="replace").split("\n")
    last_words = " ".join([line for line in said if line.strip()][-1:]).strip()
    return f"its process ended {end}" + (f" ({last_words})" if last_words else "")


def _now_ns() -> int:
    # Parent and child read the same clock: monotonic counts from the system's start on Linux and
    # macOS.  Windows promises that only of the wall clock.
    return time.time_ns() if sys.platform == "win32" else time.monotonic_ns()


def _device_memory_in_use() -> int | None:
    try:
        return None if cuda.unavailable_reason() is not None else cuda.memory_in_use()
    except FcnDeployError:  # a GPU that cannot be asked costs no figure of the others
        return None


# -- the child ----------------------------------------------------------------------------------


def _measure_here(order: Mapping[str, Any]) -> dict[str, Any]:
    named_file = order["named_file"]
    bundle = order["bundle"]
    run = Run(
        Path(order["root"]),
        None if named_file is None else Path(named_file),
        order["trusted"],
        None if bundle is None else Path(bundle),
    )
    noise = np.random.default_rng(SEED)
    first = noise.integers(0, 256, (1, *order["size"], 3), dtype=np.uint8)
    batch = noise.integers(0, 256, (*order["largest"], 3), dtype=np.uint8)
    opening = _now_ns()
    with open_runner(
        run,
        order["backend"],
        precision=Precision(order["precision"]),
        threads=order["threads"],
        device=order["device"],
    ) as runner:
        opened = _now_ns()
        runner.run(first)
        segmented = _now_ns()
        for _ in range(MORE_RUNS):
            runner.run(batch)
        # Before the GPU is asked, which takes memory of its own.
        peak = _peak_rss_mib()
        on_gpu = runner.describe().on_gpu
        held = _held_memory_mib(order["device_memory_before"]) if on_gpu else None
    return {
        "cold_start_ms": (segmented - order["spawned_ns"]) / 1e6,
        "open_ms": (opened - opening) / 1e6,
        "first_run_ms": (segmented - opened) / 1e6,
        "peak_rss_mib": peak,
        "device_memory_mib": held,
    }


def _peak_rss_mib() -> float | None:
    if sys.platform == "win32":
        return None
    if sys.platform.startswith("linux"):
        # Not getrusage: on Linux a process inherits its `ru_maxrss` from the one that started it,
        # across fork and exec; the peak of the memory that it has itself is here.
        return _peak_in(Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _peak_in(status: str) -> float | None:
    """Return VmHWM of Linux' ``/proc/…/status`` in MiB, or None where it is not said."""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    return None


def _held_memory_mib(before: int | None) -> float | None:
    now = _device_memory_in_use()
    # Less than before: another process has given memory back, and nothing can be said.
    if before is None or now is None or now < before:
        return None
    return (now - before) / 2**20


def _main() -> None:
    # Libraries may print what they like: their standard output becomes standard error.
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        figures = _measure_here(json.loads(sys.argv[1]))
    except FcnDeployError as error:
        figures = {"error": str(error)}
    except MemoryError:
        figures = {"error": "out of memory; use smaller pictures"}
    except Exception as error:  # of a backend's library; they share no base
        figures = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    os.write(answer, json.dumps(dict.fromkeys(_FIELDS) | figures).encode())


if __name__ == "__main__":
    _main()
