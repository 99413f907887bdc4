"""FP32 ONNX → INT8 ONNX: explicit Q/DQ nodes, scales measured on pictures.  Knows no torch.

    model.onnx ──pictures──▶ ranges ──▶ Q/DQ ──▶ check ──▶ model.int8.onnx

Weights are int8 per output channel, activations int8 per tensor, all zero points 0, biases float:
what TensorRT reads.  At opset 17, which is TensorRT 8.6's, the weights are floats with a
QuantizeLinear behind them that gives the same int8 (:mod:`fcn_deploy.graph.int8_weights`).

Q/DQ stands on the inputs of convolutions and on the residual inputs of sums, not on what a
convolution gives: Conv + Add + Relu can then be one kernel, and no sum is rounded twice.
:mod:`fcn_deploy.graph.int8_for_ort_cpu` says what ONNX Runtime's CPU provider needs instead.

The first convolution and all from the scores on stay in float, together 8 % of the arithmetic: in
int8, the first costs 0.24 point of mean IoU (CamVid), and the scores are too few to save anything.
Scales are those of the largest values: percentiles (99.99, 99.999) and entropy gave the same mean
IoU within 0.02 point.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ExportError, FcnDeployError, InputError, OnnxFileError
from fcn_deploy.core.files import content_digest, write_bytes
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.int8_for_ort_cpu import SUM_SCALES_KEY, for_onnx_runtime_cpu
from fcn_deploy.graph.int8_weights import FLOAT_WEIGHTS_OPSET, with_float_weights
from fcn_deploy.graph.nodes import initializers_of, opset_of, producers_of, remove_dead_nodes
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR, PRECISION_KEY, OnnxFile, WrittenOnnx
from fcn_deploy.graph.session import cpu_session

if TYPE_CHECKING:
    import onnx

#: Calibration pictures on which the masks are held against the FP32 file's; they stay in memory.
CHECK_PICTURES = 8
#: Share of their pixels that must keep its class: a floor against broken files, far below what a
#: sound one gives; what INT8 may cost is the parity gate's to say.
MIN_AGREEMENT = 0.9
_QUANTIZED = ("Conv", "Add")
#: What stands between convolutions: in networks of ours Relu alone; SiLU is a Sigmoid and a Mul.
_ACTIVATIONS = (
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu", "Gelu",
    "Mish",
)  # fmt: skip
#: Says to the quantizer that the graph has been prepared; it would warn otherwise.
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
_REPAIR = "calibrate on more pictures, of the kind that the network is for, or ship FP16"


@dataclass(frozen=True)
class Quantized(WrittenOnnx):
    """A written INT8 file.

    Attributes:
        pictures: that the scales were measured on.
        quantized: names of the convolutions in INT8.
        kept: names of those left in float.
        agreement: share of pixels with the FP32 file's class, on the first calibration pictures,
            as written or rewritten for ONNX Runtime, whichever is less; None where unchecked.
    """

    pictures: int
    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    agreement: float | None


def quantized_onnx(
    source: OnnxFile,
    target: Path,
    pictures: Iterable[NDArray[np.uint8]],
    *,
    min_agreement: float = MIN_AGREEMENT,
    checked: bool = True,
    threads: int = 0,
) -> Quantized:
    """Write an FP32 file of ours as INT8 and prove it before it gets its name.

    The same file and pictures give the same bytes.

    Args:
        source: a file that `fcn-deploy export` wrote, FP32.
        target: the file to write; an older one stays until the new one has passed its check.
        pictures: uint8 [H, W, 3] each, of any sizes, taken once, one at a time.
        min_agreement: share of pixels whose class must be the FP32 file's.
        checked: False leaves the comparison of masks out, for a file that is to be looked into.
        threads: of the check's sessions; 0: all cores.

    Raises:
        OnnxFileError: the source is unreadable, not ours, or not FP32.
        InputError: there are no pictures.
        ExportError: nothing can be quantized, or the file failed its check; none was left.
        ArtifactError: the file cannot be written.
    """
    _refuse_foreign(source)
    model = source.model
    chosen, kept = chosen_convolutions(model)
    if not chosen:
        raise ExportError(
            f"{source.path} has no convolution between two activations: nothing to quantize",
            "ship FP16",
        )
    reader = _Reader(pictures)
    quantized = _with_scales(model, chosen, reader)
    _finish(quantized, model, _unquantize_sums(quantized))
    agreement = _check(source, quantized, chosen, reader.first, threads) if checked else None
    if agreement is not None and agreement < min_agreement:
        raise ExportError(
            f"only {agreement:.2%} of the calibration pictures' pixels keep their class in INT8; "
            f"required {min_agreement:.0%}",
            _REPAIR,
        )
    content = quantized.SerializeToString(deterministic=True)
    write_bytes(target, content)
    return Quantized(
        path=target,
        digest=content_digest(content),
        outputs=source.metadata.outputs,
        opset=opset_of(quantized),
        num_nodes=len(quantized.graph.node),
        pictures=reader.count,
        quantized=chosen,
        kept=kept,
        agreement=agreement,
    )


def chosen_convolutions(model: onnx.ModelProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the convolutions to quantize, and of those to leave in float.

    Quantized is what reads an activation and works towards another one.  That leaves out the
    first convolution, which reads the picture, and whatever follows the body's last activation, in
    any form of the tail.
    """
    chosen = _between_activations(model, ("Conv",))
    convolutions = [n.name for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")]
    return tuple(chosen), tuple(name for name in convolutions if name not in chosen)


def _between_activations(model: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    nodes = list(model.graph.node)
    behind: set[str] = set()  # tensors computed from an activation
    for node in nodes:  # ONNX graphs are sorted
        if node.op_type in _ACTIVATIONS or any(name in behind for name in node.input):
            behind.update(node.output)
    before: set[str] = set()  # tensors from which an activation is computed
    for node in reversed(nodes):
        if node.op_type in _ACTIVATIONS or any(name in before for name in node.output):
            before.update(node.input)
    return [
        node.name
        for node in nodes
        if node.op_type in operators
        and any(name in behind for name in node.input)
        and any(name in before for name in node.output)
    ]


def _refuse_foreign(source: OnnxFile) -> None:
    path, metadata, model = source.path, source.metadata, source.model
    if metadata.precision is not Precision.FP32:
        raise OnnxFileError(
            f"{path} is {metadata.precision.value}; INT8 is made from FP32",
            "give the file that `fcn-deploy export` writes without a precision",
        )
    inputs = [value.name for value in model.graph.input]
    if inputs != ["image"] or "mask" not in metadata.outputs:
        raise OnnxFileError(f"{path} is no deploy graph: it reads {inputs}", FOREIGN_REPAIR)
    names = [node.name for node in model.graph.node]
    if len(set(names)) != len(names):  # nodes are chosen by name
        raise OnnxFileError(f"{path} has two nodes of one name", FOREIGN_REPAIR)


class _Reader:
    """The quantizer's view of the pictures: asked for one at a time, the first ones kept."""

    def __init__(self, pictures: Iterable[NDArray[np.uint8]]) -> None:
        self._pictures: Iterator[NDArray[np.uint8]] = iter(pictures)
        self.first: list[NDArray[np.uint8]] = []
        self.count = 0

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next picture as the graph's input, None after the last."""
        picture = next(self._pictures, None)
        if picture is None:
            if not self.count:
                raise InputError("no pictures to calibrate on", "name a folder with --calibration")
            return None
        self.count += 1
        if len(self.first) < CHECK_PICTURES:
            self.first.append(picture)
        return {"image": picture[None]}


def _with_scales(model: onnx.ModelProto, chosen: Sequence[str], reader: _Reader) -> onnx.ModelProto:
    """Run ONNX Runtime's quantizer: ranges on the pictures, then Q/DQ and integer weights."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    # Not above: its module loads half of the quantizer, which the runners never need.
    CalibrationDataReader.register(_Reader)
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    prepared.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    weights = initializers_of(model.graph)
    biased = {n.name for n in model.graph.node if not weights.keys().isdisjoint(n.input)}
    # Adding a constant is no sum of two branches: another tool's biases stay float, as ours.
    sums = [name for name in _between_activations(model, ("Add",)) if name not in biased]
    with tempfile.TemporaryDirectory(prefix="fcn-deploy.") as folder:
        written = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                prepared,
                written,
                reader,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                nodes_to_quantize=[*chosen, *sums],
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    # TensorRT reads no int32 DQ; the other runtimes round biases themselves.
                    "QuantizeBias": False,
                    "OpTypesToExcludeOutputQuantization": list(_QUANTIZED),
                },
            )
        except FcnDeployError:
            raise  # of a picture
        except Exception as error:  # the quantizer's exceptions share no base but Exception
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ExportError(f"ONNX Runtime cannot quantize the graph: {reason}") from error
        return onnx.load(written)


def _unquantize_sums(model: onnx.ModelProto) -> dict[str, float]:
    """Let each sum read its convolution's float output; return the scales taken out, by tensor.

    Only the residual stays quantized.  Where both sides are convolutions (a downsampling block),
    the first is the block's body, the second its residual.
    """
    from onnx import numpy_helper

    values, maker = initializers_of(model.graph), producers_of(model.graph)
    scales: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for place, name in enumerate(node.input):
            dequantize = maker.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            quantize = maker[dequantize.input[0]]
            exact = quantize.input[0]
            if exact in maker and maker[exact].op_type == "Conv":
                node.input[place] = exact
                scales[exact] = float(numpy_helper.to_array(values[quantize.input[1]]))
                break
    return scales


def _finish(quantized: onnx.ModelProto, source: onnx.ModelProto, scales: dict[str, float]) -> None:
    """Take out what nobody reads, write the metadata, give TensorRT 8.6 weights that it reads."""
    remove_dead_nodes(quantized.graph)
    del quantized.metadata_props[:]
    for entry in source.metadata_props:
        value = Precision.INT8.value if entry.key == PRECISION_KEY else entry.value
        quantized.metadata_props.add(key=entry.key, value=value)
    quantized.metadata_props.add(key=SUM_SCALES_KEY, value=json.dumps(scales, sort_keys=True))
    quantized.producer_name, quantized.producer_version = source.producer_name, ""
    quantized.ir_version = source.ir_version
    del quantized.opset_import[:]  # the quantizer names its own domain, of which nothing is used
    quantized.opset_import.extend(source.opset_import)
    del quantized.graph.value_info[:]  # inferred by whoever reads the file, as in our others
    for holder in (quantized.graph, *quantized.graph.node):
        holder.doc_string = ""
    if opset_of(quantized) <= FLOAT_WEIGHTS_OPSET:
        with_float_weights(quantized)


def _check(
    source: OnnxFile,
    quantized: onnx.ModelProto,
    chosen: Sequence[str],
    pictures: Sequence[NDArray[np.uint8]],
    threads: int,
) -> float:
    """Check the graph formally, its rules of quantization, and its masks; return their agreement.

    The masks are those of the file as written and as ONNX Runtime's CPU provider needs it; the
    worse of the two counts.

    Raises:
        ExportError: the graph is invalid, or breaks a rule.
    """
    import onnx

    try:
        onnx.checker.check_model(quantized, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the quantized graph is invalid: {error}") from error
    _check_rules(quantized, chosen)
    reference = cpu_session(source.bytes, threads)
    candidates = [
        cpu_session(graph.SerializeToString(), threads)
        for graph in (quantized, for_onnx_runtime_cpu(quantized))
    ]
    same, pixels = [0] * len(candidates), 0
    for picture in pictures:
        fed = {"image": picture[None]}
        (expected,) = reference.run(["mask"], fed)
        pixels += int(expected.size)
        for place, candidate in enumerate(candidates):
            same[place] += int((candidate.run(["mask"], fed)[0] == expected).sum())
    return min(same) / pixels


def _check_rules(model: onnx.ModelProto, chosen: Sequence[str]) -> None:
    from onnx import TensorProto, numpy_helper

    values, maker = initializers_of(model.graph), producers_of(model.graph)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = numpy_helper.to_array(values[node.input[1]])
            zero = values[node.input[2]]
            if not (np.isfinite(scale).all() and (scale > 0).all()):
                raise ExportError(f"{node.name} has a scale that is no positive number", _REPAIR)
            if zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any():
                raise ExportError(f"{node.name} has a zero point that is not 0 of int8")
        elif node.op_type == "Conv" and node.name in chosen:
            makers = [maker[name].op_type if name in maker else "" for name in node.input[:2]]
            if makers != ["DequantizeLinear"] * 2:
                raise ExportError(f"{node.name} was not quantized")


logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
