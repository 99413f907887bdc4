"""TensorRT's callbacks: its logger, its progress monitor, its profiler of layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LOGGER = logging.getLogger("fcn_deploy.tensorrt")
#: Layer → its times in milliseconds, run by run, the layers in the order in which they run.
LayerTimes = dict[str, list[float]]
#: Called with the phase's name, the steps done and the steps in all.
OnProgress = Callable[[str, int, int], None]
_NO_ERROR = "no message"


def last_error() -> str:
    """Return the last error that TensorRT logged since :func:`clear_errors`, for our message."""
    return _last_error[0]


def clear_errors() -> None:
    """Forget the last error: one of an earlier call would explain a later one wrongly."""
    _last_error[0] = _NO_ERROR


_last_error = [_NO_ERROR]
_listeners: list[Callable[[str], None]] = []


def logger(trt: Any) -> Any:
    """Return TensorRT's logger: a subclass made here, because its base class is not there before.

    TensorRT keeps the first logger of a process for good, so :func:`load` makes only one.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.INFO,
        trt.ILogger.VERBOSE: logging.DEBUG,
    }

    class LoggingLogger(trt.ILogger):  # type: ignore[misc]
        """Hands TensorRT's messages to ``logging``."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # bindings of this kind insist on their own name

        def log(self, severity: Any, message: str) -> None:
            """Take one message."""
            level = levels.get(severity, logging.INFO)
            if level >= logging.ERROR:
                _last_error[0] = " ".join(message.split())
            LOGGER.log(level, "%s", message)
            for listen in _listeners:
                listen(message)

    return LoggingLogger()


def progress_monitor(base: Any, on_progress: OnProgress, raised: list[BaseException]) -> Any:
    """Return a progress monitor of TensorRT that hands the phases of a build to a callback."""

    class ReportingMonitor(base):  # type: ignore[misc]
        """Hands the phases of a build to a callback."""

        def __init__(self) -> None:
            base.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """A phase begins."""
            self._steps[name] = steps

        def step_complete(self, name: str, step: int) -> bool:
            """A step is done; False stops the build."""
            try:
                on_progress(name, step + 1, self._steps.get(name, 0))
            except BaseException as error:  # must not fly through TensorRT's own frames
                raised.append(error)
            return not raised

        def phase_finish(self, name: str) -> None:
            """A phase ends."""
            self._steps.pop(name, None)

    return ReportingMonitor()


def layer_profiler(base: Any, times: LayerTimes) -> Any:
    """Return a profiler of TensorRT that collects the times of layers."""

    class LayerProfiler(base):  # type: ignore[misc]
        """Collects the times of layers."""

        def __init__(self) -> None:
            base.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Take the time of one layer in one run."""
            times.setdefault(layer_name, []).append(ms)

    return LayerProfiler()


@contextmanager
def logged_messages(*starts: str) -> Iterator[list[str]]:
    """Collect what TensorRT logs, at any level, that starts with one of ``starts``."""
    messages: list[str] = []

    def keep(message: str) -> None:
        if message.startswith(starts):
            messages.append(message)

    _listeners.append(keep)
    try:
        yield messages
    finally:
        _listeners.remove(keep)
