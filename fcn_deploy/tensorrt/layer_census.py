"""Count the layers of a new engine by precision, by whatever TensorRT tells; refuse a wrong one.

A build takes minutes and the count is only told by parts of TensorRT that differ between the
releases, so nothing that goes wrong while counting may cost the engine: not even the end of the
process, before which :func:`count_unasked` has told the draft of the sidecar what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import BuildError, FcnDeployError
from fcn_deploy.core.spec import BatchShape, Precision
from fcn_deploy.machine import cuda
from fcn_deploy.tensorrt import callbacks
from fcn_deploy.tensorrt.api import TensorRt
from fcn_deploy.tensorrt.builder import CHANNELS, INPUT_NAME, BuiltPlan
from fcn_deploy.tensorrt.layers import (
    FLOATS,
    LISTINGS,
    UNKNOWN,
    LayerTypes,
    census,
    known_layers,
    layers_by_precision,
    layers_of_inspector,
)
from fcn_deploy.tensorrt.portability import Portability

_INSPECTOR, _LOG = "engine inspector", "builder log"
#: Precisions whose engine is a failure without a layer of theirs; how a layer and its arithmetic
#: are called.
_LAYER_WORDS = {
    Precision.FP16: ("half-precision", "half precision"),
    Precision.INT8: ("8-bit", "8-bit arithmetic"),
}


@dataclass(frozen=True)
class LayerCount:
    """How many layers of an engine work in which precision.

    Attributes:
        layers: precision → number of layers; empty where no type of any is told.
        source: who told them, else that and why nobody did, as the sidecar holds it.
    """

    layers: dict[str, int]
    source: str


def count_layers(
    tensorrt: TensorRt, built: BuiltPlan, typical: BatchShape, portable: Portability | None
) -> LayerCount:
    """Count the layers of an engine: by its inspector, else by the list in the builder's log.

    Args:
        tensorrt: that built it.
        built: the engine.
        typical: a batch shape that it takes, N×H×W.
        portable: what it was built to fit, beyond this machine.
    """
    inspected, problem = _inspected(tensorrt, built.plan, typical, portable)
    if known_layers(inspected) and UNKNOWN not in inspected:
        return LayerCount(inspected, _INSPECTOR)
    logged = _count_by_log(built.listings, problem)
    if known_layers(inspected) and known_layers(inspected) >= known_layers(logged.layers):
        return LayerCount(inspected, _INSPECTOR)
    return logged


def count_unasked(built: BuiltPlan) -> LayerCount:
    """Count the layers of an engine that nothing has been asked of, for the draft of its sidecar.

    It is what remains if asking the inspector ends the process.
    """
    return _count_by_log(built.listings, "the process ended while it was asked")


def _count_by_log(listings: Sequence[str], problem: str | None) -> LayerCount:
    """Count by the list in the builder's log; ``problem`` is what the inspector has."""
    try:
        logged = layers_by_precision(_logged(listings))
    except Exception:  # whatever a release logs: it costs no engine
        logged = {}
    if known_layers(logged):
        return LayerCount(logged, f"{_LOG}; {_INSPECTOR}: {problem}" if problem else _LOG)
    reason = f"{_INSPECTOR}: {problem}" if problem else f"{_LOG}: no list of layers"
    return LayerCount({}, f"not told ({reason})")


def _inspected(
    tensorrt: TensorRt, plan: Any, typical: BatchShape, portable: Portability | None
) -> tuple[dict[str, int], str | None]:
    """Return what the engine's inspector tells, and what is wrong with that."""
    if cuda.unavailable_reason() is not None:
        return {}, None  # no GPU to load the engine on: nothing is wrong
    try:
        information = _inspector_text(tensorrt, plan, typical, portable)
    except FcnDeployError as error:
        return {}, error.message
    except Exception as error:  # what the bindings raise has no common base but this
        return {}, _one_line(f"{type(error).__name__}: {error}")
    try:
        layers = layers_by_precision(layers_of_inspector(information))
    except ValueError as error:
        return {}, _one_line(f"no JSON ({error})")
    return layers, None if known_layers(layers) else "no types"


def _inspector_text(
    tensorrt: TensorRt, plan: Any, typical: BatchShape, portable: Portability | None
) -> str:
    trt = tensorrt.trt
    runtime = tensorrt.create_runtime()
    if portable is Portability.VERSION:
        tensorrt.allow_host_code(runtime)
    callbacks.clear_errors()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(f"TensorRT does not load its own engine: {callbacks.last_error()}")
    inspector = engine.create_engine_inspector()
    # Before 10 a tensor of dynamic size has no type until a context knows the size.
    context = tensorrt.create_context(engine, 0, 0)
    if not tensorrt.set_input_shape(context, INPUT_NAME, (*typical, CHANNELS)):
        raise BuildError(f"its context refuses {typical}: {callbacks.last_error()}")
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _logged(listings: Sequence[str]) -> list[LayerTypes]:
    return [
        layer
        for listing in listings
        for start, read in LISTINGS.items()
        if listing.startswith(start)
        for layer in read(listing)
    ]


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def require_precision(
    count: LayerCount, precision: Precision, source: Path, export: str, refused: Path
) -> None:
    """Refuse an FP16 or INT8 engine whose float layers are all told, and none of which is such.

    A float32 layer in an INT8 engine is no fault: the first convolution and the tail stay float.

    Args:
        count: of its layers.
        precision: that it was built for.
        source: the ONNX file that it was built from.
        export: what writes that file anew.
        refused: where its plan is left.

    Raises:
        BuildError: naming the layers that there are, and where the plan is left.
    """
    layers = count.layers
    if precision not in _LAYER_WORDS or layers.get(precision.value) or UNKNOWN in layers:
        return
    if not set(FLOATS) & set(layers):
        return
    adjective, arithmetic = _LAYER_WORDS[precision]
    raise BuildError(
        f"the engine from {source} has no {adjective} layer ({census(layers)}, {count.source}), so "
        f"it is no {precision.value.upper()} engine; its plan is left at {refused}",
        f"run `{export}` again; on a GPU without fast {arithmetic}, build without "
        f"{precision.flag.strip()}",
    )
