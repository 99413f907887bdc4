"""Restores the thread's alternate signal stack, which loading OpenVINO takes away."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the thread back the stack on which it handles signals, whatever is done meanwhile.

    OpenVINO with more than one thread puts in a stack of its own with a model (seen with 2026.4),
    and puts the one that it found back when the model goes.  Models that do not go in the reverse
    order of their coming leave a stack that is freed, on which the next signal that Python handles
    kills the process: a Ctrl-C, or the end of a child while PyTorch loads in processes.
    """
    if sys.platform != "linux":
        yield
        return
    kept = _SignalStack()
    _libc().sigaltstack(None, ctypes.byref(kept))
    try:
        yield
    finally:
        _libc().sigaltstack(ctypes.byref(kept), None)
