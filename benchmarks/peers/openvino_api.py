"""OpenVINO through its own API: the plain export, preprocessing in the graph, argmax in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingStageError
from fcn_deploy.core.run import Run
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.results.runner import COMPUTE, COPY_IN
from fcn_deploy.runners.base import OpenRequest, Outputs
from fcn_deploy.runners.onnx_runner import OnnxRunner
from fcn_deploy.runners.openvino.signal_stack import signal_stack_kept

#: What it calls them; and what its CPU plugin says that a CPU can do.
_TYPE_NAMES = {"fp32": "f32", "bf16": "bf16"}
_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16"}


def unavailable_reason(precision: str = "fp32") -> str | None:
    """Return why OpenVINO cannot run in a precision here, or None."""
    try:
        import openvino
    except ImportError as error:
        return f"OpenVINO cannot be imported ({error}); pip install openvino"
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in capabilities:
        return f"OpenVINO says that this CPU has no {precision}"
    return None


def open_peer(run: Run, threads: int, *, precision: str = "fp32") -> OpenVinoPeer:
    """Open a run's plain export.

    Raises:
        MissingStageError: it has not been made.
    """
    if not run.baseline_onnx.is_file():
        raise MissingStageError(
            f"no {run.baseline_onnx}", f"run `fcn-deploy bench{run.command_suffix}` once"
        )
    return OpenVinoPeer(run, threads, precision)


class OpenVinoPeer(OnnxRunner):
    """The plain export, compiled for one size at a time.

    Args:
        run: with a plain export.
        threads: CPU threads.
        precision: ``fp32`` or ``bf16``.  It is always said: on CPUs with AMX, OpenVINO would else
            take bfloat16 for a float32 file.
    """

    @signal_stack_kept()
    def __init__(self, run: Run, threads: int, precision: str) -> None:
        import openvino

        name = "peer:openvino" + ("" if precision == "fp32" else f"-{precision}")
        file = OnnxFile(run.baseline_onnx)
        super().__init__(name, file, OpenRequest(run, threads=threads))
        self._precision = self._arithmetic = precision
        self._library = f"OpenVINO {openvino.__version__.split('-')[0]}"
        core = openvino.Core()
        self._core: Any = core
        self._network: Any = core.read_model(file.bytes)
        file.release()
        self._requests: dict[tuple[int, ...], Any] = {}

    @signal_stack_kept()
    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        self._require_open(self._core)
        request = self._requests.get(images.shape)
        if request is None:
            request = self._requests[images.shape] = self._compiled(images.shape)
        # It reads the array where it lies.
        there = np.ascontiguousarray(images)
        self.stage_done(COPY_IN)
        results = request.infer({0: there}, share_inputs=True, share_outputs=True)
        self.stage_done(COMPUTE)
        return Outputs(results[0].argmax(axis=1).astype(np.uint8))

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        import openvino
        from openvino import properties
        from openvino.preprocess import PrePostProcessor
        from openvino.properties import hint

        steps = PrePostProcessor(self._network.clone())
        source = steps.input()
        source.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
        source.model().set_layout(openvino.Layout("NCHW"))
        source.preprocess().convert_element_type(openvino.Type.f32).mean(
            [255 * value for value in self.spec.mean]
        ).scale([255 * value for value in self.spec.std])
        model = steps.build()
        model.reshape(list(shape))  # OpenVINO advises static shapes wherever they are known
        wanted = getattr(openvino.Type, _TYPE_NAMES[self._precision])
        compiled = self._core.compile_model(
            model,
            "CPU",
            {
                hint.performance_mode(): hint.PerformanceMode.LATENCY,
                hint.inference_precision(): wanted,
                properties.inference_num_threads(): self._threads,
            },
        )
        given = compiled.get_property(hint.inference_precision())
        if given != wanted:
            raise BackendError(f"OpenVINO was asked for {wanted} and computes in {given}")
        return compiled.create_infer_request()

    @signal_stack_kept()
    def close(self) -> None:
        """Free what was compiled; calling it twice is harmless."""
        self._requests = {}
        self._core = self._network = None
