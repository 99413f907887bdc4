"""Another tool's network as it stands, in ONNX Runtime, with all around it written out in numpy.

    RGB bytes ──numpy: channels, mean, std, layout──▶ original ──▶ logits ──numpy: upsampled──▶ mask

That is what a deploy graph is held against: nothing of it is shared with the rewritten graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.graph.foreign.preprocessing import LAYOUTS, Layout, Preprocessing

if TYPE_CHECKING:
    import onnx

Floats = NDArray[np.float32]
#: Characters of a library's message that are shown; what is wrong stands at the end.
_MOST_WORDS = 200


@dataclass(frozen=True)
class Interface:
    """What goes into a network of another tool and what comes out.

    Attributes:
        input_name: of its input.
        output_name: of its output.
        logits: name of the tensor that holds them: the output, or what its own argmax reads.
        layout: of the logits.
        num_classes: channels of the logits.
        upsampled: whether the logits are smaller than the picture.
        align_corners: how they are upsampled: corners on corners, or half pixels.
        shape: the batches that it takes itself; see ``pads``.
    """

    input_name: str
    output_name: str
    logits: str
    layout: Layout
    num_classes: int
    upsampled: bool
    align_corners: bool
    shape: InputShape

    @property
    def has_own_mask(self) -> bool:
        """Whether the output is a class map."""
        return self.logits != self.output_name

    @property
    def pads(self) -> bool:
        """Whether pictures are padded, since it takes free sizes, but not all of them.

        Below and on the right, with zeros where the network reads them, which stand for the mean;
        what lies there is cut off the logits.
        """
        shape = self.shape
        free = shape.height is None and shape.width is None
        return free and (shape.multiple > 1 or shape.smallest > 1)

    @property
    def taken(self) -> InputShape:
        """The batches that its deploy graph takes."""
        return InputShape(self.shape.batch) if self.pads else self.shape

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "shape": self.shape.to_json()}

    @classmethod
    def from_json(cls, entry: Any) -> Interface:
        """Read what :meth:`to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if entry["layout"] not in LAYOUTS:
            raise ValueError(entry["layout"])
        return cls(
            input_name=str(entry["input_name"]),
            output_name=str(entry["output_name"]),
            logits=str(entry["logits"]),
            layout=cast(Layout, entry["layout"]),
            num_classes=int(entry["num_classes"]),
            upsampled=bool(entry["upsampled"]),
            align_corners=bool(entry["align_corners"]),
            shape=InputShape.from_json(entry["shape"]),
        )


def quiet_session(content: bytes, threads: int = 0) -> Any:
    """Open a session on the CPU that says nothing of its own; what fails raises.

    Raises:
        OnnxFileError: ONNX Runtime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # sizes are tried that a network may not take
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but Exception
        reason = reason_of(error)
        raise OnnxFileError(
            f"ONNX Runtime refuses the file: {reason}", "export it again"
        ) from error


def reason_of(error: Exception) -> str:
    """Return what a library says of a failure, in one line; the places in its sources go."""
    words = " ".join(str(error).split())
    return words if len(words) <= _MOST_WORDS else f"…{words[-_MOST_WORDS:]}"


def with_tensor_shown(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """Return the graph with one more output; nothing else is changed."""
    from onnx import ModelProto, TensorProto, helper

    from fcn_deploy.graph.fp16_rounding import tensor_types

    shown = ModelProto()
    shown.CopyFrom(model)
    if tensor not in {value.name for value in shown.graph.output}:
        kind = tensor_types(model).get(tensor, TensorProto.FLOAT)
        shown.graph.output.append(helper.make_tensor_value_info(tensor, kind, None))
    return shown


class OriginalNetwork:
    """The network of another tool, fed and read in numpy.

    Args:
        content: the original's bytes.
        preprocessing: of its pictures.
        interface: of the network.
        threads: of the session; 0: all cores.
        open_session: from an ONNX file's bytes and a number of threads.
    """

    def __init__(
        self,
        content: bytes,
        preprocessing: Preprocessing,
        interface: Interface,
        threads: int = 0,
        open_session: Callable[[bytes, int], Any] | None = None,
    ) -> None:
        self._preprocessing, self._interface = preprocessing, interface
        if interface.has_own_mask:
            import onnx

            model = onnx.load_model_from_string(content)
            content = with_tensor_shown(model, interface.logits).SerializeToString()
        self._session = (open_session or quiet_session)(content, threads)

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's execution providers in use."""
        return tuple(self._session.get_providers())

    def feed(self, images: NDArray[np.uint8]) -> Floats:
        """Return the network's input of RGB pictures, uint8 [N, H, W, 3]."""
        fed = self._preprocessing.apply(images)
        if not self._interface.pads:
            return fed
        height, width = images.shape[1:3]
        rows, columns = self._interface.shape.fitted(height, width)
        pads = [(0, 0), (0, rows - height), (0, columns - width)]
        pads.insert(1 if self._preprocessing.layout == "NCHW" else 3, (0, 0))
        return np.pad(fed, pads)

    def compute(self, fed: Floats) -> list[NDArray[Any]]:
        """Return what the network itself gives: logits, and its own class map if it has one."""
        interface = self._interface
        names = [interface.logits]
        if interface.has_own_mask:
            names.append(interface.output_name)
        arrays: list[NDArray[Any]] = self._session.run(names, {interface.input_name: fed})
        return arrays

    def read(
        self, given: list[NDArray[Any]], size: tuple[int, ...]
    ) -> tuple[NDArray[np.uint8], Floats]:
        """Return mask [N, H, W] and logits [N, C, H, W] of what the network gave.

        Args:
            given: by :meth:`compute`.
            size: (H, W) of the picture.
        """
        interface = self._interface
        height, width = size
        computed = interface.shape.fitted(height, width) if interface.pads else size
        logits = np.asarray(given[0], np.float32)
        if interface.layout == "NHWC":
            logits = logits.transpose(0, 3, 1, 2)
        if interface.upsampled:
            logits = bilinear(logits, computed, align_corners=interface.align_corners)
        if interface.has_own_mask:
            mask = np.asarray(given[1]).reshape(len(logits), *computed).astype(np.uint8)
        else:
            mask = logits.argmax(axis=1).astype(np.uint8)
        kept = (..., slice(height), slice(width))
        return np.ascontiguousarray(mask[kept]), np.ascontiguousarray(logits[kept])

    def run(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Floats]:
        """Return mask [N, H, W] and logits [N, C, H, W] of RGB pictures, uint8 [N, H, W, 3]."""
        return self.read(self.compute(self.feed(images)), images.shape[1:3])


def bilinear(values: Floats, size: tuple[int, ...], *, align_corners: bool) -> Floats:
    """Return float32 [N, C, h, w] interpolated to (H, W), as ONNX defines Resize for it."""
    for axis, length in ((2, size[0]), (3, size[1])):
        low, high, share = _neighbours(values.shape[axis], length, align_corners)
        share = share.reshape(-1, 1) if axis == 2 else share
        before, after = values.take(low, axis), values.take(high, axis)
        values = before * (1 - share) + after * share
    return values


def _neighbours(
    given: int, wanted: int, align_corners: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Return, for each place, its two neighbours and the share of the second.

    In float32 throughout: ONNX' scales are, and a place on the edge of a cell must fall alike.
    """
    places = np.arange(wanted, dtype=np.float32)
    if align_corners:
        at = places * np.float32((given - 1) / max(1, wanted - 1))
    else:
        at = (places + np.float32(0.5)) / np.float32(wanted / given) - np.float32(0.5)
    at = np.clip(at, 0, given - 1).astype(np.float32)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, given - 1), (at - low).astype(np.float32)
