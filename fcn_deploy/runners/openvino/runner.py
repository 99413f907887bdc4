"""OpenVINO on the CPU.  Knows no torch: it goes onto the target device.

    model.onnx ──read once──▶ graph ──per N×H×W, kept for the last few──▶ compiled ──▶ mask

Backend ``openvino`` computes a file in the precision that it has.  Two more are for float32 files,
of which the graph is changed before it is compiled: ``openvino-bf16`` computes them in bfloat16,
with the mean's fraction moved into a bias so that no pixel is rounded; ``openvino-int8x3`` in
float32, large convolutions as three products of 8-bit integers.

Nothing is cached on disk: of the 0.17 s in which ``openvino`` compiles a ResNet-18 for 320×480,
OpenVINO's CACHE_DIR saves 0.04 s, and it would leave 44 MiB for each shape, without bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingExtraError
from fcn_deploy.core.extras import missing_extra
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.int8_for_ort_cpu import SATURATION
from fcn_deploy.graph.onnx_file import OnnxFile, require_model
from fcn_deploy.graph.whole_mean import WHOLE_MEAN, with_whole_mean
from fcn_deploy.machine.description import cpu_flags, int8_sums_saturate
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners.base import Backend, OpenRequest, Outputs
from fcn_deploy.runners.cpu_streams import LANES, in_lanes
from fcn_deploy.runners.onnx_runner import OnnxRunner
from fcn_deploy.runners.openvino.compiled import (
    KEPT_SHAPES,
    Arithmetic,
    Network,
    Request,
    Requests,
    opened,
    prepared,
)
from fcn_deploy.runners.openvino.int8x3 import PRODUCTS_EACH, THREE_PRODUCTS, with_three_products
from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept
from fcn_deploy.runners.shape_lookahead import by_shape

#: Since then its ArgMax gives the lowest class of a tie (openvino pull request 32217).
OLDEST_RELEASE = (2025, 4)
#: What its CPU plugin calls the types that a CPU computes in by instructions of its own.
_CAPABILITIES = {"bf16": "BF16", "f16": "FP16"}


@dataclass(frozen=True)
class OpenVinoOptions:
    """With which type OpenVINO computes each kind of file.

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
        if (absent := self.missing_extra()) is not None:
            return str(absent)
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
        except Exception as error:  # its exceptions share no base but Exception
            again = "pip install 'fcn-deploy[openvino]'"
            return f"OpenVINO does not work here ({type(error).__name__}: {error}); {again}"

    def missing_extra(self) -> MissingExtraError | None:
        """Return the error of OpenVINO's package where it cannot be imported, or None."""
        return missing_extra(f"backend {self.name}", "openvino", "openvino")

    def takes(self, precision: Precision) -> bool:
        """Say whether files of that precision are computed as this backend's name says."""
        import openvino

        return precision in self.arithmetic and not self._missing(openvino.Core(), precision)

    @signal_stack_kept()
    def open(self, request: OpenRequest) -> OpenVinoRunner:
        """Open a run's ONNX file.

        Raises:
            BackendError: this CPU has no such arithmetic.
            OnnxFileError: the file is not ours, or was made from another checkpoint of this run.
        """
        return OpenVinoRunner(self, require_model(request.run, request.precision), request)

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


class OpenVinoRunner(OnnxRunner):
    """An exported file in OpenVINO, changed as :class:`Arithmetic` says."""

    def __init__(self, options: OpenVinoOptions, file: OnnxFile, request: OpenRequest) -> None:
        import openvino

        super().__init__(options.name, file, request)
        core = openvino.Core()
        arithmetic = options.require_arithmetic(core, self._metadata.precision)
        self._precision = arithmetic.precision.value
        self._arithmetic = arithmetic.name or self._precision
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": getattr(openvino.Type, arithmetic.kind),
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
        }
        shipped, probe = prepared(file, arithmetic), None
        if self._needs_probe:
            probe = prepared(file, arithmetic, visible_logits=True)
        file.release()  # before OpenVINO takes memory of its own
        self._network: Network | None = opened(core, shipped, settings, arithmetic)
        del shipped
        self._library = f"OpenVINO {openvino.__version__.split('-')[0]}{arithmetic.note}"
        if arithmetic.precision is Precision.INT8 and int8_sums_saturate():
            self._library += SATURATION
        if arithmetic.precision is Precision.FP32 and self._network.quantized:
            self._library += f", {self._network.quantized // PRODUCTS_EACH} {THREE_PRODUCTS}"
        self._streams: Network | None = None
        # An odd thread would idle.
        if self._masks_alone and self._threads % LANES == 0:
            settings_of_streams = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": LANES}
            self._streams = self._network.with_settings(settings_of_streams)
        self._probe: Network | None = None
        if probe is not None:
            self._probe = opened(core, probe, settings, arithmetic)

    @signal_stack_kept()
    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        network = self._require_open(self._network)
        there = np.ascontiguousarray(images)
        self.stage_done(COPY_IN)
        arrays = network.run(there, self._metadata.outputs)
        self.stage_done(COMPUTE)
        if self._probe is not None:
            arrays |= self._probe.run(there, ["logits"])
        # Copied: what OpenVINO wrote lies in buffers that the next run uses again.
        copies = {name: np.array(array) for name, array in arrays.items()}
        return Outputs.chosen(copies, self._wanted)

    def reserve_shapes(self, shapes: int) -> None:
        """Keep so many shapes compiled of each graph; never fewer than ``KEPT_SHAPES``."""
        for network in (self._network, self._streams, self._probe):
            if network is not None:
                network.kept_shapes = max(KEPT_SHAPES, shapes)

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order; see :func:`in_lanes`, :func:`by_shape`."""
        if not self._masks_alone:  # logits are far too large to wait for their turn
            yield from super().stream(batches)
            return
        network = self._streams or self._require_open(self._network)
        in_given_order = super().stream if self._streams is None else self._in_lanes
        yield from by_shape(self, batches, network.kept_shapes, in_given_order)

    def _in_lanes(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        requests = Requests(self._require_open(self._streams))

        def begin(images: NDArray[np.uint8]) -> Request:
            self._require_open(self._network)
            return requests.begin(images)

        def finish(request: Request) -> Outputs:
            self._require_open(self._network)
            return Outputs(requests.finish(request))

        return in_lanes(self, batches, begin, finish)

    @signal_stack_kept()
    def close(self) -> None:
        """Free what was compiled; calling it twice is harmless."""
        self._network = self._streams = self._probe = None


def openvino_backend(options: OpenVinoOptions) -> Backend:
    """Return OpenVINO with these options as a backend."""
    return Backend(
        options.name,
        options.open,
        options.unavailable_reason,
        options.takes,
        runs_on="cpu",
        missing_extra=options.missing_extra,
    )


_AS_STORED = OpenVinoOptions(
    "openvino",
    MappingProxyType(
        {
            Precision.FP32: Arithmetic("f32", Precision.FP32),
            Precision.FP16: Arithmetic("f16", Precision.FP16),
            Precision.INT8: Arithmetic("f32", Precision.INT8),
        }
    ),
)
BF16_OPTIONS = OpenVinoOptions(
    "openvino-bf16",
    # Of a quantised file it would leave integers and bfloat16 side by side: OpenVINO 2026.4 finds
    # no kernels for that.
    MappingProxyType(
        {Precision.FP32: Arithmetic("bf16", Precision.BF16, with_whole_mean, WHOLE_MEAN)}
    ),
)
_INT8X3 = OpenVinoOptions(
    "openvino-int8x3",
    MappingProxyType(
        {Precision.FP32: Arithmetic("f32", Precision.FP32, with_three_products, name="int8x3")}
    ),
    needs="amx_int8",
)
AS_STORED, BF16, INT8X3 = map(openvino_backend, (_AS_STORED, BF16_OPTIONS, _INT8X3))
