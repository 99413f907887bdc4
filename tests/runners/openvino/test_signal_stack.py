"""Signals are heard although OpenVINO has loaded models."""

import subprocess
import sys

import pytest

from fcn_deploy.core.run import Run

pytest.importorskip("openvino")


SIGNALS_AFTER_MODELS = """
import os, pathlib, signal, sys
os.sched_setaffinity(0, range(os.cpu_count()))  # the suite keeps each worker on one core
import numpy as np
from fcn_deploy.core.run import Run
from fcn_deploy.runners.base import open_runner
heard = []
signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
picture = np.zeros((1, 8, 8, 3), np.uint8)
def opened():
    return open_runner(Run(pathlib.Path(sys.argv[1])), "openvino", threads=2)
first, second = opened(), opened()
first.close()
signal.raise_signal(signal.SIGUSR1)
third = opened()
list(third.stream([picture] * 3))
second.close()
signal.raise_signal(signal.SIGUSR1)
third.close()
signal.raise_signal(signal.SIGUSR1)
print(len(heard))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seen on Linux")
def test_signals_are_heard_in_whatever_order_runners_close(tiny_run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIGNALS_AFTER_MODELS, tiny_run.root],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
