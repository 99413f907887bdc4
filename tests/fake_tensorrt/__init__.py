"""A TensorRT that offers exactly the names of one release, and a network simple enough to check.

The names come from ``tests/fixtures/trt-api/*.json``: a name that a release lacks raises
``AttributeError``, when it is read and when it is set.  Its "engine" gives each pixel the class
``(R + G + B) mod C``.
"""

import weakref
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from tests.fake_cuda import FakeCuda
from tests.fake_tensorrt.building import (
    _Builder,
    _IBuilderConfig,
    _ILogger,
    _INetworkDefinition,
    _IOptimizationProfile,
    _IProgressMonitor,
    _ITensor,
    _ITimingCache,
    _OnnxParser,
    _ParserError,
)
from tests.fake_tensorrt.execution import (
    LAYER_MS,
    NUM_CLASSES,
    SCRATCH_BYTES,
    _EngineInspector,
    _ICudaEngine,
    _IExecutionContext,
    _IProfiler,
    _Runtime,
    fake_logits,
    fake_mask,
)
from tests.fake_tensorrt.release import RELEASES, _enumeration, _restricted, api, version_of

__all__ = [
    "LAYER_MS",
    "NUM_CLASSES",
    "RELEASES",
    "SCRATCH_BYTES",
    "FakeTensorRt",
    "ProcessEndedError",
    "api",
    "fake_logits",
    "fake_mask",
    "version_of",
]


#: What pybind raises where TensorRT's library gives no object.
_NULLPTR = "pybind11::init(): factory function returned nullptr"


class ProcessEndedError(BaseException):
    """The process would have ended here, whatever it catches."""


class FakeTensorRt(ModuleType):
    """The module of one release.

    ``_starts_cuda`` false: the driver is too old for it.  ``_has_kernels`` false: the library of
    its builder is missing.  ``_made`` counts the builders and runtimes.

    Args:
        release: of :data:`RELEASES`.
        cuda: the device that its engines run on.
    """

    def __init__(self, release: str, cuda: FakeCuda) -> None:
        super().__init__("tensorrt_rtx_bindings" if release.startswith("rtx") else "tensorrt")
        self.__spec__ = ModuleSpec(self.__name__, None)
        self.__version__ = version_of(release)
        self._release, self._cuda = release, cuda
        self._half_layers = self._starts_cuda = self._has_kernels = True
        self._made = {"builder": 0, "runtime": 0}
        self._logs_layers = self._loads_engines = True
        #: Gives the inspector's text in place of what the plan says, or raises.
        self._inspector: Callable[[], str] | None = None
        self._calls: list[str] = []
        self._capturable = self._further_contexts_run = True
        self._contexts: weakref.WeakSet[Any] = weakref.WeakSet()
        behaviours = {cls.__name__.removeprefix("_"): cls for cls in _BEHAVIOURS}
        for name, members in api(release).items():
            if name in behaviours:
                made = _restricted(behaviours[name], name, members)
                made._trt = self  # type: ignore[attr-defined]
                if name == "ILogger":
                    for value, level in enumerate(("INTERNAL_ERROR", "ERROR", "WARNING", "INFO")):
                        setattr(made, level, value)
                    made.VERBOSE = 4  # type: ignore[attr-defined]
            else:
                made = _enumeration(name, members)
            setattr(self, name, made)

    def _start(self, logger: Any, what: str) -> None:
        """Start CUDA and make a builder or a runtime, or fail as the release does."""
        self._made[what] += 1
        if not self._starts_cuda:
            logger.log(
                self.ILogger.WARNING,
                "CUDA initialization failure with error: 35. Please check your CUDA installation:"
                "  http://docs.nvidia.com/cuda/cuda-installation-guide-linux/index.html",
            )
            if what == "runtime" and self._release == "8.6.0":
                raise ProcessEndedError
            raise TypeError(_NULLPTR)
        if what == "builder" and not self._has_kernels:
            logger.log(
                self.ILogger.ERROR,
                "6: [libLoader.cpp::Impl::293] Error Code 6: Internal Error (Unable to load "
                f"library: libnvinfer_builder_resource.so.{self.__version__})",
            )
            raise TypeError(_NULLPTR)

    @property
    def _strongly_typed(self) -> bool:
        return self._release != "8.6.0"


_BEHAVIOURS = (
    _ILogger, _IProgressMonitor, _IProfiler, _Builder, _IBuilderConfig, _ITimingCache,
    _IOptimizationProfile, _INetworkDefinition, _ITensor, _OnnxParser, _ParserError, _Runtime,
    _ICudaEngine, _EngineInspector, _IExecutionContext,
)  # fmt: skip
