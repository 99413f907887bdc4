"""Small segmentation networks as other tools write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.commands.import_onnx import OnnxImport, import_onnx
from fcn_deploy.core.run import Run
from fcn_deploy.graph.foreign.preprocessing import ChannelOrder, Triple

#: Of the pictures that the networks expect: grey levels, in the order in which they read them.
MEAN, STD = (103.0, 117.0, 124.0), (57.0, 57.5, 58.5)
Axes = Sequence[int | str]


def foreign_network(
    *,
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    classes: int = 4,
    stride: int = 1,
    argmax: TensorProto.DataType | None = None,
    opset: int = 17,
    batch: int | str = "N",
    size: tuple[int | str, int | str] = ("H", "W"),
    activation: str = "Relu",
    names: tuple[str, str] = ("input", "output"),
) -> onnx.ModelProto:
    """Return a network of four convolutions.

    Args:
        layout: of input and output.
        classes: channels of its logits.
        stride: of its first convolution, by which its logits are smaller than the picture.
        argmax: type of the class map that it gives; None: it gives logits.
        opset: of the graph.
        batch: its N, fixed or free.
        size: its H and W, fixed or free.
        activation: between the convolutions.
        names: of input and output.
    """
    source, target = names
    nodes: list[onnx.NodeProto] = []
    tensor = source
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [source], ["planes"], perm=[0, 3, 1, 2]))
        tensor = "planes"
    body, tensor, weights = _convolutions(tensor, classes, stride, activation)
    nodes += body
    axes: Axes = (batch, classes, "h", "w")
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [tensor], ["last"], perm=[0, 2, 3, 1]))
        tensor, axes = "last", (batch, "h", "w", classes)
    kind = TensorProto.FLOAT
    if argmax is not None:
        axis = 1 if layout == "NCHW" else 3
        nodes.append(helper.make_node("ArgMax", [tensor], ["index"], axis=axis, keepdims=0))
        nodes.append(helper.make_node("Cast", ["index"], ["map"], to=argmax))
        tensor, axes, kind = "map", (batch, "h", "w"), argmax
    nodes[-1].output[0] = target
    height, width = size
    given_axes = (batch, 3, height, width) if layout == "NCHW" else (batch, height, width, 3)
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, given_axes)],
        [helper.make_tensor_value_info(target, kind, axes)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _convolutions(
    tensor: str, classes: int, stride: int, activation: str
) -> tuple[list[onnx.NodeProto], str, dict[str, NDArray[Any]]]:
    """Return four convolutions that read a tensor, the last one's output, and their weights."""
    weights: dict[str, NDArray[Any]] = {}
    generator = np.random.default_rng(3)
    nodes: list[onnx.NodeProto] = []
    for index, (before, after) in enumerate(((3, 8), (8, 8), (8, 8), (8, classes))):
        weight, bias, given = f"w{index}", f"b{index}", f"conv{index}"
        weights[weight], weights[bias] = _random_weights(generator, before, after)
        step = stride if index == 0 else 1
        nodes.append(
            helper.make_node(
                "Conv",
                [tensor, weight, bias],
                [given],
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[step, step],
            )
        )
        tensor = given
        if index < 3:
            tensor = f"active{index}"
            nodes.append(helper.make_node(activation, [given], [tensor]))
    return nodes, tensor, weights


def _random_weights(
    generator: np.random.Generator, before: int, after: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    kernel = generator.standard_normal((after, before, 3, 3)) * np.sqrt(2 / (9 * before))
    bias = 0.1 * generator.standard_normal(after)
    return kernel.astype(np.float32), bias.astype(np.float32)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """Write a network to a file and return it."""
    path.write_bytes(model.SerializeToString())
    return path


def noise(*shape: int) -> NDArray[np.uint8]:
    """Return pictures of noise, uint8 [*shape, 3]; always the same."""
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def foreign_run(
    run: Run,
    *,
    channels: ChannelOrder = "bgr",
    mean: Triple = MEAN,
    class_file: Path | None = None,
    **form: Any,
) -> onnx.ModelProto:
    """Import a network into a run, as the command does, and return it.

    Args:
        run: the run.
        channels: the order in which it is fed.
        mean: what is subtracted from its pictures.
        class_file: names its classes.
        form: of the network; see :func:`foreign_network`.
    """
    model = foreign_network(**form)
    run.root.mkdir(parents=True, exist_ok=True)
    path = saved(model, run.root / "network-of-another-tool.onnx")
    options = OnnxImport(
        path, run, class_file, form.get("layout"), channels, mean, STD, None, False, True
    )
    import_onnx(options)
    path.unlink()
    return model
