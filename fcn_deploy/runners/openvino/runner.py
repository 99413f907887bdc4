"""OpenVINO on the CPU.  Knows no torch: it goes onto the target device.

    model.onnx ──read once──▶ graph ──per N×H×W, kept for the last few──▶ compiled ──▶ mask

The module itself is the backend ``openvino``: a file is computed in the precision that it has.
At its end stand two more for float32 files, of which the graph is changed before it is compiled:
``bf16``, the backend ``openvino-bf16``, computes them in bfloat16, with the mean's fraction moved
into a bias so that no pixel is rounded; ``int8x3``, the backend ``openvino-int8x3``, in float32,
large convolutions as three products of 8-bit integers.

Nothing is cached on disk: of the 0.17 s in which ``openvino`` compiles a ResNet-18 for 320×480,
OpenVINO's CACHE_DIR saves 0.04 s, and it would leave 44 MiB for each shape, without bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.graph.int8_for_ort_cpu import SATURATION
from fcn_deploy.graph.onnx_file import OnnxMetadata, require_model
from fcn_deploy.machine.description import cpu_flags, int8_sums_saturate, usable_cores
from fcn_deploy.results.runner import COMPUTE, COPY_IN, RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner
from fcn_deploy.runners.cpu_streams import LANES, in_lanes
from fcn_deploy.runners.openvino.bf16 import WHOLE_MEAN, with_whole_mean
from fcn_deploy.runners.openvino.compiled import (
    KEPT_SHAPES,
    Arithmetic,
    Network,
    Request,
    Requests,
    opened,
)
from fcn_deploy.runners.openvino.int8x3 import PRODUCTS_EACH, THREE_PRODUCTS, with_three_products
from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept

#: Since then its ArgMax gives the lowest class of a tie (openvino pull request 32217).
OLDEST_RELEASE = (2025, 4)
_INSTALL = "pip install 'fcn-deploy[openvino]'"
#: What its CPU plugin calls the types that a CPU computes in by instructions of its own.
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}


@dataclass(frozen=True)
class OpenVinoBackend:
    """OpenVINO with one type for the arithmetic of each kind of file.

    The type is always said: on a CPU with AMX, OpenVINO would take bfloat16 for a float32 file.

    Attributes:
        name: of the backend.
        arithmetic: precision of the file → how it is computed.
        needs: the flag of Intel's AMX without which it is expected to take longer than float32, or
            None.
    """

    name: str
    arithmetic: Mapping[Precision, Arithmetic]
    needs: str | None = None

    def unavailable_reason(self) -> str | None:
        """Return why OpenVINO cannot run in this precision here, or None."""
        try:
            import openvino

            release = tuple(int(part) for part in openvino.__version__.split(".")[:2])
            if release < OLDEST_RELEASE:
                oldest = ".".join(map(str, OLDEST_RELEASE))
                newer = f"pip install -U 'openvino>={oldest}'"
                return f"OpenVINO {openvino.__version__} is older than {oldest}; {newer}"
            if self.needs is not None and self.needs not in cpu_flags():
                missing = f"this CPU has no Intel AMX ({self.needs}), or does not say so"
                return f"{missing}; use --backend openvino"
            return self._missing(openvino.Core(), Precision.FP32)
        except ImportError as error:
            return f"OpenVINO cannot be imported ({error}); {_INSTALL}"
        except Exception as error:  # its exceptions share no base but Exception
            return f"OpenVINO does not work here ({type(error).__name__}: {error}); {_INSTALL}"

    def takes(self, precision: Precision) -> bool:
        """Say whether files of that precision are computed as this backend's name says."""
        import openvino

        return precision in self.arithmetic and not self._missing(openvino.Core(), precision)

    @signal_stack_kept()
    def open(
        self,
        run: Run,
        *,
        precision: Precision,
        outputs: tuple[str, ...],
        threads: int | None,
        device: str,
    ) -> OpenVinoRunner:
        """Open a run's ONNX file; see :func:`fcn_deploy.runners.base.open_runner`.

        Raises:
            BackendError: ``device`` is ``cuda``, or this CPU has no such arithmetic.
            OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
        """
        if device == "cuda":
            raise BackendError(f"backend {self.name} runs on the CPU", "drop --device cuda")
        return OpenVinoRunner(self, *require_model(run, precision), outputs, threads)

    def require_arithmetic(self, core: Any, precision: Precision) -> Arithmetic:
        """Return how a file is computed.

        Raises:
            BackendError: it would be computed in another type than this backend stands for.
        """
        if precision not in self.arithmetic:
            taken = " and ".join(kind.value for kind in self.arithmetic)
            raise BackendError(
                f"backend {self.name} takes {taken} files, not {precision.value} ones",
                f"drop{precision.flag}, or use --backend openvino",
            )
        reason = self._missing(core, precision)
        if reason is not None:
            raise BackendError(reason, f"drop{precision.flag}, or use --backend ort")
        return self.arithmetic[precision]

    def _missing(self, core: Any, precision: Precision) -> str | None:
        # Where the CPU lacks a type, OpenVINO computes in float32 and lets it pass.
        kind = self.arithmetic[precision].kind
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if kind in _CAPABILITIES and _CAPABILITIES[kind] not in capabilities:
            return f"OpenVINO says that this CPU has no {_CAPABILITIES[kind].lower()} arithmetic"
        return None


class OpenVinoRunner(Runner):
    """An exported file in OpenVINO.

    The mask always comes from the file as shipped, changed as :class:`Arithmetic` says; for
    logits that it does not give, the same graph is compiled a second time with its logits made
    visible.
    """

    def __init__(
        self,
        backend: OpenVinoBackend,
        path: Path,
        metadata: OnnxMetadata,
        outputs: tuple[str, ...],
        threads: int | None,
    ) -> None:
        import openvino

        core = openvino.Core()
        arithmetic = backend.require_arithmetic(core, metadata.precision)
        self._backend = backend.name
        self._precision = arithmetic.precision
        self._path = path
        self._metadata = metadata
        self._digest = file_digest(path)
        self._library = f"OpenVINO {openvino.__version__.split('-')[0]}{arithmetic.note}"
        if self._precision is Precision.INT8 and int8_sums_saturate():
            self._library += SATURATION
        self._threads = threads or usable_cores()
        self._wanted = outputs
        hidden = [name for name in outputs if name not in metadata.outputs]
        self._derive_margin = "margin" in hidden
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": getattr(openvino.Type, arithmetic.kind),
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
        }
        self._network: Network | None = opened(core, path, settings, arithmetic)
        if self._precision is Precision.FP32 and self._network.quantized:
            self._library += f", {self._network.quantized // PRODUCTS_EACH} {THREE_PRODUCTS}"
        self._streams: Network | None = None
        # An odd thread would idle, and who wants to see the logits measures no throughput.
        if outputs == ("mask",) and self._threads % LANES == 0:
            settings_of_streams = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": LANES}
            self._streams = self._network.with_settings(settings_of_streams)
        self._probe: Network | None = None
        if hidden and "logits" not in metadata.outputs:
            self._probe = opened(core, path, settings, arithmetic, visible_logits=True)

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._metadata.spec

    def describe(self) -> RunnerDescription:
        """Say what this runner is, as built."""
        return RunnerDescription(
            backend=self._backend,
            device="cpu",
            precision=self._precision.value,
            library=self._library,
            threads=self._threads,
            file=str(self._path),
            digest=self._digest,
            checkpoint_digest=self._metadata.checkpoint_digest,
        )

    @signal_stack_kept()
    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        network = self._require_open()
        there = np.ascontiguousarray(images)
        self._ended(COPY_IN)
        arrays = network.run(there, self._metadata.outputs)
        self._ended(COMPUTE)
        if self._probe is not None:
            arrays |= self._probe.run(there, ["logits"])
        if self._derive_margin:
            arrays["margin"] = margin_of(arrays["logits"])
        # Copied: what OpenVINO wrote lies in buffers that the next run uses again.
        return Outputs(**{name: np.array(arrays[name]) for name in self._wanted})

    def keep(self, shapes: int) -> None:
        """Keep so many shapes compiled of each graph; never fewer than ``KEPT_SHAPES``."""
        for network in (self._network, self._streams, self._probe):
            if network is not None:
                network.kept_shapes = max(KEPT_SHAPES, shapes)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_lanes`."""
        if self._streams is None:
            return super().stream(batches)
        requests = Requests(self._streams)

        def begin(images: NDArray[np.uint8]) -> Request:
            self._require_open()
            return requests.begin(images)

        def finish(request: Request) -> Outputs:
            self._require_open()
            return Outputs(requests.finish(request))

        return in_lanes(self, batches, begin, finish)

    def _require_open(self) -> Network:
        if self._network is None:
            raise BackendError(f"the {self._backend} runner is closed")
        return self._network

    @signal_stack_kept()
    def close(self) -> None:
        """Free what was compiled; calling it twice is harmless."""
        self._network = self._streams = self._probe = None


_plain = OpenVinoBackend(
    "openvino",
    MappingProxyType(
        {
            Precision.FP32: Arithmetic("f32", Precision.FP32),
            Precision.FP16: Arithmetic("f16", Precision.FP16),
            Precision.INT8: Arithmetic("f32", Precision.INT8),
        }
    ),
)
unavailable_reason, takes, open = _plain.unavailable_reason, _plain.takes, _plain.open
#: Backend ``openvino-bf16``.
bf16 = OpenVinoBackend(
    "openvino-bf16",
    # Of a quantised file it would leave integers and bfloat16 side by side: OpenVINO 2026.4 finds
    # no kernels for that.
    MappingProxyType(
        {Precision.FP32: Arithmetic("bf16", Precision.BF16, with_whole_mean, WHOLE_MEAN)}
    ),
)
#: Backend ``openvino-int8x3``.
int8x3 = OpenVinoBackend(
    "openvino-int8x3",
    MappingProxyType(
        {Precision.FP32: Arithmetic("f32", Precision.FP32, with_three_products)},
    ),
    needs="amx_int8",
)
