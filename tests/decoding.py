"""What tests of the threads that decode pictures share."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.pipeline import THREAD_NAME

#: Seconds after which a wait is given up: on any machine far more than the work takes.
PATIENCE = 30.0
Read = Callable[[Path], NDArray[np.uint8]]


def living_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]
