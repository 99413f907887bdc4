"""Cuts an ONNX graph into segments that run alone, for the bisection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.nodes import initializers_of
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR

if TYPE_CHECKING:
    import onnx


class SegmentedGraph:
    """A graph cut into segments, so that only a few layers' outputs are in memory at once.

    Args:
        model: the graph, with float32 arithmetic.
        chunks: names of the tensors to see, in the order of computing.
        threads: of each session's intra-op pool.

    Raises:
        OnnxFileError: ONNX Runtime refuses a segment.
    """

    def __init__(
        self, model: onnx.ModelProto, chunks: Sequence[Sequence[str]], threads: int
    ) -> None:
        self._chunks = chunks
        (image,) = (value.name for value in model.graph.input)
        self._image = image
        weights = initializers_of(model.graph)
        types = tensor_types(model)
        segments = _segments(model, chunks)
        reads = [_inputs(segment) - weights.keys() for segment in segments]
        #: Tensor → the last segment that reads it or at whose end it is looked at.
        self._last_use: dict[str, int] = {}
        for number, (names, chunk) in enumerate(zip(reads, chunks, strict=True)):
            self._last_use.update(dict.fromkeys((*names, *chunk), number))
        self._sessions: list[tuple[Any, list[str], list[str]] | None] = []
        for number, (segment, names) in enumerate(zip(segments, reads, strict=True)):
            made = [output for node in segment for output in node.output if output]
            if not segment:  # an earlier one has made all that this chunk looks at
                self._sessions.append(None)
                continue
            outputs = [
                name
                for name in made
                if name in chunks[number] or self._last_use.get(name, -1) > number
            ]
            inputs = sorted(names.difference(made))
            graph = _segment_graph(segment, inputs, outputs, weights, types)
            self._sessions.append((_session(model, graph, threads), inputs, outputs))

    def run(self, images: NDArray[np.uint8]) -> Iterator[list[NDArray[Any]]]:
        """Compute uint8 [1, H, W, 3]; yield each chunk's tensors when they are there."""
        live: dict[str, NDArray[Any]] = {self._image: images}
        for number, (chunk, opened) in enumerate(zip(self._chunks, self._sessions, strict=True)):
            if opened is not None:
                session, inputs, outputs = opened
                given = session.run(outputs, {name: live[name] for name in inputs})
                live.update(zip(outputs, given, strict=True))
                del given
            yield [live[name] for name in chunk]
            live = {n: tensor for n, tensor in live.items() if self._last_use.get(n, -1) > number}


def _segments(
    model: onnx.ModelProto, chunks: Sequence[Sequence[str]]
) -> list[list[onnx.NodeProto]]:
    """Return for each chunk the nodes that it needs beyond those of the chunks before it."""
    nodes = list(model.graph.node)
    maker = {output: index for index, node in enumerate(nodes) for output in node.output if output}
    done: set[int] = set()
    segments = []
    for chunk in chunks:
        needed: set[int] = set()
        waiting = [maker[name] for name in chunk]
        while waiting:
            index = waiting.pop()
            if index in done or index in needed:
                continue
            needed.add(index)
            waiting.extend(maker[name] for name in nodes[index].input if name in maker)
        done |= needed
        segments.append([nodes[index] for index in sorted(needed)])  # ONNX graphs are sorted
    return segments


def _inputs(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.input if name}


def _segment_graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
    weights: Mapping[str, onnx.TensorProto],
    types: Mapping[str, int],
) -> onnx.GraphProto:
    from onnx import helper

    untyped = [name for name in (*inputs, *outputs) if name not in types]
    if untyped:
        raise OnnxFileError(f"the graph does not tell the type of {untyped[0]}", FOREIGN_REPAIR)
    return helper.make_graph(
        nodes,
        "segment",
        [helper.make_tensor_value_info(name, types[name], None) for name in inputs],
        [helper.make_tensor_value_info(name, types[name], None) for name in outputs],
        [weights[name] for name in sorted(_inputs(nodes) & weights.keys())],
    )


def _session(model: onnx.ModelProto, graph: onnx.GraphProto, threads: int) -> Any:
    import onnxruntime
    from onnx import helper

    segment = helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=list(model.opset_import)
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Several sessions wait in turn; a pool that spins meanwhile would take the next one's cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False  # it would keep each segment's peak for good
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            segment.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"ONNX Runtime refuses the file: {error}", FOREIGN_REPAIR) from error
