"""Reads an ONNX file of another tool, and refuses what no deploy graph can be made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fcn_deploy.core.errors import BackendError, OnnxFileError, cannot_import
from fcn_deploy.core.files import content_digest
from fcn_deploy.graph.foreign.preprocessing import LAYOUTS, Layout
from fcn_deploy.graph.nodes import cast_to, initializers_of, opset_of, producers_of

if TYPE_CHECKING:
    import onnx

#: What is rewritten without conversion; others are converted to the nearest of them.
OLDEST_OPSET, NEWEST_OPSET = 13, 20
#: Older operators are not converted: Upsample, for one, has changed its meaning since.
OLDEST_CONVERTED = 9
_OWN_DOMAINS = ("", "ai.onnx")
#: What may stand between an argmax and the class map that the file gives.
_AFTER_ARGMAX = ("Cast", "Squeeze", "Unsqueeze", "Identity", "Reshape", "Flatten")
_EXPORT_AGAIN = "export it again"
#: float32, float16, float64, as ONNX numbers them.
_FLOATS = (1, 10, 11)


@dataclass(frozen=True, eq=False)
class Original:
    """A network that another tool has exported.

    Attributes:
        path: of the file.
        model: the graph, weights inside; nobody changes it.
        content: what the run keeps as its original: the file, with its weights.
        input_name: of its only input.
        input_sizes: of that input, four; None where a size is free.
        output_name: of the output that is taken, the first.
        argmax: name of the tensor that the output's own argmax reads, and the axis of classes;
            None where the output is logits.
    """

    path: Path
    model: onnx.ModelProto
    content: bytes
    input_name: str
    input_sizes: tuple[int | None, ...]
    output_name: str
    argmax: tuple[str, int] | None

    @property
    def digest(self) -> str:
        """``sha256:…`` of what the run keeps."""
        return content_digest(self.content)

    def layout(self, asked: Layout | None) -> Layout:
        """Return the layout of its input: the one that was asked for, or the one that fits.

        Raises:
            OnnxFileError: the input has no axis of three channels there.
        """
        channels = {"NCHW": self.input_sizes[1], "NHWC": self.input_sizes[3]}
        fitting: list[Layout] = [name for name in LAYOUTS if channels[name] == 3]
        layout: Layout = asked or (fitting or LAYOUTS)[0]
        if layout not in fitting and (channels[layout] is not None or fitting):
            raise OnnxFileError(
                f"{self.path} reads {_words(self.input_sizes)}, which is no {layout} of 3 channels",
                "give the other --input-layout, or a network that reads colour pictures",
            )
        return layout


def read_original(path: Path) -> Original:
    """Read an ONNX file of another tool.

    Raises:
        OnnxFileError: it is none, or no deploy graph can be made of it.
        BackendError: the onnx package is missing.
    """
    model, content = _read(path)
    _refuse_operators(path, model)
    _refuse_weights(path, model)
    name, sizes = _only_input(path, model.graph)
    if not model.graph.output:
        raise OnnxFileError(f"{path} gives no output", _EXPORT_AGAIN)
    output = model.graph.output[0].name
    return Original(path, model, content, name, sizes, output, _argmax_of(path, model, output))


def _read(path: Path) -> tuple[onnx.ModelProto, bytes]:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise BackendError(cannot_import(f"reading {path}", error), "pip install onnx") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OnnxFileError(f"cannot read {path}: {error.strerror}", "check the path") from error
    foreign = OnnxFileError(f"{path} is truncated or no ONNX file", "give an ONNX file")
    try:
        model: onnx.ModelProto = onnx.load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise foreign from error
    if not model.graph.node or not model.opset_import:
        raise foreign
    if any(tensor.data_location == tensor.EXTERNAL for tensor in model.graph.initializer):
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
            content = model.SerializeToString()
        except Exception as error:  # onnx' and protobuf's exceptions share no base
            reason = " ".join(str(error).split())[:160]
            raise OnnxFileError(
                f"the weights that {path} keeps in another file cannot be had: {reason}",
                f"put that file beside {path.name}",
            ) from error
    return model, content


def _refuse_operators(path: Path, model: onnx.ModelProto) -> None:
    from onnx import AttributeProto, defs

    if not any(entry.domain == "" for entry in model.opset_import):
        raise OnnxFileError(f"{path} does not say its opset of ONNX's own operators", _EXPORT_AGAIN)
    if opset_of(model) < OLDEST_CONVERTED:
        raise OnnxFileError(
            f"{path} is written in opset {opset_of(model)}, older than {OLDEST_CONVERTED}",
            f"export it again in opset {OLDEST_OPSET} to {NEWEST_OPSET}",
        )
    if opset_of(model) > defs.onnx_opset_version():
        raise OnnxFileError(
            f"{path} is written in opset {opset_of(model)}, and the installed onnx knows up to "
            f"{defs.onnx_opset_version()}",
            f"export it again in opset {OLDEST_OPSET} to {NEWEST_OPSET}",
        )
    for node in model.graph.node:
        if node.domain not in _OWN_DOMAINS:
            raise OnnxFileError(
                f"{path} uses {node.op_type} of {node.domain}, which is no operator of ONNX",
                "export it again without that tool's own operators",
            )
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise OnnxFileError(
                f"{path} has a graph within the graph, in {node.op_type} {node.name}",
                "export it again without branches and loops",
            )
    if model.functions:
        raise OnnxFileError(
            f"{path} defines operators of its own", "export it again with functions inlined"
        )


def _refuse_weights(path: Path, model: onnx.ModelProto) -> None:
    from onnx import numpy_helper

    if model.graph.sparse_initializer:
        raise OnnxFileError(f"{path} holds sparse weights", "export it again with dense ones")
    for name, tensor in _tensors(model.graph):
        values = numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise OnnxFileError(f"{path} holds NaN in {name}", "the network is broken: train again")


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from initializers_of(graph).items()
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            yield node.output[0], node.attribute[0].t


def _only_input(path: Path, graph: onnx.GraphProto) -> tuple[str, tuple[int | None, ...]]:
    from onnx import TensorProto

    weights = initializers_of(graph)
    inputs = [value for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise OnnxFileError(
            f"{path} has {len(inputs)} inputs ({names}), expected one picture",
            "export it again with one input",
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        given = TensorProto.DataType.Name(kind.elem_type).lower()
        raise OnnxFileError(
            f"{path} reads {given}, expected a float32 network", "export it again in float32"
        )
    if not kind.HasField("shape"):
        raise OnnxFileError(
            f"the rank of the input {inputs[0].name} of {path} is not known",
            "export it again with an input of four axes",
        )
    sizes = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    if len(sizes) != 4:
        raise OnnxFileError(
            f"{path} reads {_words(sizes)}, expected four axes: NCHW or NHWC",
            "export it again with a batch axis",
        )
    return inputs[0].name, sizes


def _argmax_of(path: Path, model: onnx.ModelProto, output: str) -> tuple[str, int] | None:
    """Return what the output's own argmax reads, and along which axis; None: it has none."""
    producers, name = producers_of(model.graph), output
    while name in producers and producers[name].op_type in _AFTER_ARGMAX:
        name = producers[name].input[0]
    node = producers.get(name)
    if node is None or node.op_type != "ArgMax":
        last = producers.get(output)
        kinds = [value.type.tensor_type.elem_type for value in model.graph.output]
        names = [value.name for value in model.graph.output]
        whole = kinds[names.index(output)] not in (0, *_FLOATS)
        if whole or (last is not None and cast_to(last) not in (None, *_FLOATS)):
            made = "whole numbers that no argmax of its own makes"
        elif not _sees_scores(model.graph, output):
            made = "what it makes of its own class map"
        else:
            return None
        raise OnnxFileError(
            f"{path} gives {made}", "export it again with logits as its first output"
        )
    form = {attribute.name: attribute.i for attribute in node.attribute}
    if form.get("select_last_index", 0):
        raise OnnxFileError(
            f"the argmax of {path} takes the last of equal classes, ours the first",
            "export it again without select_last_index",
        )
    return node.input[0], int(form.get("axis", 0))


def _sees_scores(graph: onnx.GraphProto, output: str) -> bool:
    """Say whether an output is made of the input by another way than through an argmax."""
    weights = initializers_of(graph)  # in old files they are inputs too
    inputs = {value.name for value in graph.input} - weights.keys()
    producers = producers_of(graph)
    waiting, seen = [output], set[str]()
    while waiting:
        name = waiting.pop()
        if name in inputs:
            return True
        node = producers.get(name)
        if name not in seen and node is not None and node.op_type not in ("ArgMax", "Shape"):
            waiting.extend(node.input)
        seen.add(name)
    return False


def _words(sizes: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"
