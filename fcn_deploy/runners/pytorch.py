"""PyTorch: eager, the reference that every other backend is compared with, and as fast as it gets.

torch            eager; in float32 plain, in float16 on a GPU channels last
torch-compile    pictures → masks as one compiled graph, channels last
torch-graphs     eager, channels last, recorded once for each batch shape as a CUDA graph
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingExtraError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.networks.device import (
    choose_device,
    device_name,
    fastest_kernels,
    missing_torch,
)
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs, Runner

if missing_torch("PyTorch") is None:
    import torch

    from fcn_deploy.networks.checkpoint import load_checkpoint
    from fcn_deploy.networks.deploy_graph import DeployModel
#: The compiler makes code for every batch shape, and keeps it: so many shapes and no more.
MAX_COMPILED_SHAPES = 64
#: So many batch shapes keep a CUDA graph and its memory; the least recently used one makes room.
MAX_GRAPHS = 8
#: Before a graph is recorded, as PyTorch advises: libraries choose kernels and take their
#: workspace then.
WARM_UP_RUNS = 3
_COMPILERS = {"darwin": "clang++", "win32": "cl"}


@dataclass(frozen=True)
class TorchOptions:
    """How PyTorch runs the network; the runner's description says it.

    Attributes:
        channels_last: weights lie as pictures do; None: where it is faster and nobody's reference.
        compiled: by ``torch.compile``, each batch shape for itself.
        graphs: recorded as CUDA graphs, one for each batch shape.
    """

    channels_last: bool | None = None
    compiled: bool = False
    graphs: bool = False

    def settled(self, precision: Precision, device: torch.device) -> TorchOptions:
        """Return the options with nothing left open, for a precision on a device."""
        if self.channels_last is not None:
            return self
        faster = precision is Precision.FP16 and device.type == "cuda"  # tensor cores want it
        return TorchOptions(faster, self.compiled, self.graphs)

    def __str__(self) -> str:
        words = {
            "torch.compile": self.compiled,
            "CUDA graphs": self.graphs,
            "channels last": self.channels_last,
        }
        return ", ".join(word for word, chosen in words.items() if chosen)


def torch_backend(name: str, options: TorchOptions) -> Backend:
    """Return PyTorch with some options as a backend.

    Args:
        name: of the backend.
        options: how it runs the network.
    """

    def open_backend(request: OpenRequest) -> Runner:
        device = _require_device(name, options, request)
        kind = CompiledRunner if options.compiled else TorchRunner
        return (GraphRunner if options.graphs else kind)(name, options, request, device)

    def missing_extra() -> MissingExtraError | None:
        return missing_torch(f"backend {name}", ", or use --backend ort, which does without")

    def why_unavailable() -> str | None:
        if (error := missing_extra()) is not None:
            return str(error)
        return _missing(options, choose_device("auto"))

    return Backend(
        name,
        open_backend,
        why_unavailable,
        _takes,
        on_request=options.graphs or options.compiled,
        missing_extra=missing_extra,
    )


def _takes(precision: Precision) -> bool:
    # Integers are the quantised file's.
    return precision in (Precision.FP32, Precision.FP16)


def _missing(options: TorchOptions, device: torch.device) -> str | None:
    if options.graphs and device.type != "cuda":
        return "PyTorch sees no GPU, and CUDA graphs are the GPU's"
    return _compiler_missing(device) if options.compiled else None


def _require_device(name: str, options: TorchOptions, request: OpenRequest) -> torch.device:
    """Return where a request is computed.

    Raises:
        BackendError: PyTorch does not compute in that precision, or not on that device.
    """
    if not _takes(request.precision):
        raise BackendError(
            f"backend {name} does not compute in {request.precision.value}",
            "use --backend ort, openvino or trt, which run the quantised file",
        )
    if options.graphs and request.device == "cpu":
        raise BackendError(
            f"backend {name} runs on a GPU", "drop --device cpu, or use --backend torch"
        )
    device = choose_device(request.device)
    if (reason := _missing(options, device)) is not None:
        raise BackendError(f"backend {name} does not work on {device.type}: {reason}")
    return device


#: The reference of every comparison.
EAGER = torch_backend("torch", TorchOptions())
COMPILED_OPTIONS = TorchOptions(channels_last=True, compiled=True)
COMPILED = torch_backend("torch-compile", COMPILED_OPTIONS)
GRAPHS_OPTIONS = TorchOptions(channels_last=True, graphs=True)
GRAPHS = torch_backend("torch-graphs", GRAPHS_OPTIONS)


class TorchRunner(Runner):
    """The checkpoint itself, eager, with the deploy graph's pre- and postprocessing."""

    def __init__(
        self,
        backend: str,
        options: TorchOptions,
        request: OpenRequest,
        device: torch.device,
    ) -> None:
        precision, outputs = request.precision, request.outputs
        self._backend = backend
        self._options = options.settled(precision, device)
        self._path = request.run.require_checkpoint()
        checkpoint = load_checkpoint(self._path)
        self._spec = checkpoint.spec
        self._digest = file_digest(self._path)
        self._precision = precision
        self._outputs = outputs
        self._device = device
        self._threads_before = torch.get_num_threads()
        if request.threads is not None:
            torch.set_num_threads(request.threads)
        # float32 means float32: on a GPU convolutions would else round to TF32's 10 bits, and the
        # reference of every comparison would be wrong by more than the candidates.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._threads = torch.get_num_threads()
        model = DeployModel(checkpoint.model, checkpoint.spec, outputs, precision).to(device)
        if self._options.channels_last:
            model = model.to(memory_format=torch.channels_last)
        self._model: DeployModel | None = model

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        options = str(self._options)
        return RunnerDescription(
            backend=self._backend,
            device=device_name(self._device),
            precision=self._precision.value,
            arithmetic=self._precision.value,
            library=f"PyTorch {torch.__version__}" + (f", {options}" if options else ""),
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._digest,
        )

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._model is None:
            raise BackendError(f"the {self._backend} runner is closed")
        with torch.inference_mode():
            arrays = self._segment(self._model, images)
        return Outputs(**dict(zip(self._outputs, arrays, strict=True)))

    def _segment(self, model: DeployModel, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Return the outputs as arrays of their own; called in inference mode."""
        # from_numpy refuses arrays that are read-only or run backwards
        host = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        images_there = host.to(self._device)
        self._wait_for_stage(COPY_IN)
        produced = self._compute(model, images_there)
        self._wait_for_stage(COMPUTE)
        return [tensor.cpu().numpy() for tensor in produced]

    def _compute(self, model: DeployModel, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        produced: tuple[torch.Tensor, ...] = model(images)
        return produced

    def _wait_for_stage(self, stage: str) -> None:
        if self._watched and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the GPU works on while Python runs ahead
        self.stage_done(stage)

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        self._model = None
        torch.set_num_threads(self._threads_before)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


class CompiledRunner(TorchRunner):
    """Normalisation, network and argmax in one compiled graph; a new batch shape is compiled anew.

    The threads are set before anything is compiled: the kernels for a CPU have their number inside.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        how: dict[str, Any] = (
            {"mode": "max-autotune"}  # with CUDA graphs
            if self._device.type == "cuda"
            # Weights become constants, laid out once as oneDNN wants them.
            else {"options": {"freezing": True}}
        )
        # fullgraph: what cannot be compiled is an error, where it would run eagerly in silence.
        self._compiled: Any = torch.compile(self._model, dynamic=False, fullgraph=True, **how)
        self._shapes: set[tuple[int, ...]] = set()

    def _compute(self, model: DeployModel, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self._shapes.add(tuple(images.shape))
        if len(self._shapes) > MAX_COMPILED_SHAPES:
            self._shapes.remove(tuple(images.shape))
            raise BackendError(
                f"backend {self._backend} compiles every batch shape for itself and has compiled "
                f"{MAX_COMPILED_SHAPES} of them",
                "use pictures of fewer sizes, or --backend torch",
            )
        with _many_shapes_allowed():
            # A CUDA graph writes its next result to the same place; `cpu` copies.
            produced: tuple[torch.Tensor, ...] = self._compiled(images)
        return produced

    def close(self) -> None:
        """Free the device; calling it twice is harmless."""
        self._compiled = None
        super().close()


@contextmanager
def _many_shapes_allowed() -> Iterator[None]:
    """Lift the compiler's own limit of eight shapes, which all runners of a process share."""
    from torch._dynamo import config

    limits = {"recompile_limit": 1 << 20, "accumulated_recompile_limit": 1 << 20}
    with config.patch(limits):
        yield


@dataclass(frozen=True)
class _Recorded:
    """A graph and the buffers that it always reads and writes.

    Attributes:
        graph: images → outputs.
        images: uint8 [N, H, W, 3], on the GPU.
        outputs: on the GPU, from the graph's own memory.
        pinned_images: their source, in pinned host memory.
        pinned_outputs: their destinations.
    """

    graph: torch.cuda.CUDAGraph
    images: torch.Tensor
    outputs: tuple[torch.Tensor, ...]
    pinned_images: torch.Tensor
    pinned_outputs: tuple[torch.Tensor, ...]


class GraphRunner(TorchRunner):
    """Static buffers, one CUDA graph for each batch shape, copies from and to pinned memory."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._recorded: OrderedDict[tuple[int, ...], _Recorded] = OrderedDict()

    def _segment(self, model: DeployModel, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        recorded = self._recorded.get(images.shape)
        if recorded is None:
            while len(self._recorded) >= MAX_GRAPHS:
                self._recorded.popitem(last=False)
            recorded = self._recorded[images.shape] = self._record(model, images.shape)
        self._recorded.move_to_end(images.shape)
        # The pinned buffer is free: the last run did not return before its outputs were there.
        np.copyto(recorded.pinned_images.numpy(), images)
        recorded.images.copy_(recorded.pinned_images, non_blocking=True)
        self._wait_for_stage(COPY_IN)
        recorded.graph.replay()
        self._wait_for_stage(COMPUTE)
        for target, source in zip(recorded.pinned_outputs, recorded.outputs, strict=True):
            target.copy_(source, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return [target.numpy().copy() for target in recorded.pinned_outputs]

    def _record(self, model: DeployModel, shape: tuple[int, ...]) -> _Recorded:
        images = torch.zeros(shape, dtype=torch.uint8, device=self._device)
        with fastest_kernels():
            # On a stream of its own, as PyTorch advises: what the warm-up leaves on the default
            # stream would else be recorded with it.
            aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP_RUNS):
                    model(images)
            torch.cuda.current_stream(self._device).wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = model(images)
        return _Recorded(graph, images, outputs, _pinned(images), tuple(map(_pinned, outputs)))

    def close(self) -> None:
        """Free the graphs and their memory; calling it twice is harmless."""
        self._recorded.clear()
        super().close()


def _pinned(like: torch.Tensor) -> torch.Tensor:
    return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)


def _compiler_missing(device: torch.device) -> str | None:
    """Return what ``torch.compile`` lacks for a device, or None."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton on a GPU; pip install triton"
        return None
    compiler = os.environ.get("CXX") or _COMPILERS.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler and finds no {compiler}; install it or set CXX"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "torch.compile needs Python's headers; install them (python3-dev)"
    return None
