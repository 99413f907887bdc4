"""What each ONNX operator does to receptive fields; see :mod:`fcn_deploy.graph.receptive_field`.

An operator that is not known, or that looks along a whole side of the picture, is noted as a
problem; its output is then taken for one that has no position, so that the walk can go on and learn
the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AxisField:
    """An axis of a tensor that runs along a side of the picture: 0, its rows, or 1, its columns.

    Position i depends on the pixels from ``jump·i + first`` to ``jump·i + last``.
    """

    side: int
    jump: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)

    def read(
        self, step: Fraction | int, before: Fraction | int, after: Fraction | int
    ) -> AxisField:
        """Return the axis whose position o reads ``step·o + before`` to ``step·o + after``."""
        first, last = self.first + self.jump * before, self.last + self.jump * after
        return AxisField(self.side, self.jump * step, first, last)

    def joined(self, other: AxisField) -> AxisField | None:
        """Return the axis that depends on both, or None where they do not run alike."""
        if (self.side, self.jump) != (other.side, other.jump):
            return None
        first, last = min(self.first, other.first), max(self.last, other.last)
        return AxisField(self.side, self.jump, first, last)


#: One for each axis of a tensor; None: it does not run along a side of the picture.
Fields = tuple[AxisField | None, ...]


@dataclass(frozen=True)
class Step:
    """An operator of the walk.

    Attributes:
        node: the operator.
        fields: of the tensors that depend on the picture.
        shapes: of all tensors.
        constants: values of tensors, flat.
        picture: (H, W).
        problems: what keeps operators from seeing their surroundings alone; gets this one's.
    """

    node: onnx.NodeProto
    fields: Mapping[str, Fields]
    shapes: Mapping[str, Shape]
    constants: Mapping[str, list[Any]]
    picture: Shape
    problems: list[str]

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The operator's attributes."""
        from onnx import helper

        return {a.name: helper.get_attribute_value(a) for a in self.node.attribute}

    @property
    def first(self) -> Fields:
        """The fields of the first input."""
        return self.fields[self.node.input[0]]

    @property
    def read(self) -> Shape:
        """The shape of the first input."""
        return self.shapes[self.node.input[0]]

    @property
    def written(self) -> Shape:
        """The shape of the output."""
        return self.shapes[self.node.output[0]]

    def constant(self, place: int) -> list[Any] | None:
        """Return the values of an input that may be left out."""
        return self.constants.get(self.node.input[place]) if place < len(self.node.input) else None

    def note(self, what: str) -> None:
        """Note a problem."""
        name = f" ({self.node.name})" if self.node.name else ""
        self.problems.append(f"its {self.node.op_type}{name} {what}")

    def without(self, fields: Fields, axes: Iterable[int]) -> Fields:
        """Return fields of which the operator looks along whole axes."""
        wanted = {axis % len(fields) for axis in axes}
        if any(fields[axis] is not None for axis in wanted):
            self.note("looks at the whole picture")
        return tuple(None if axis in wanted else field for axis, field in enumerate(fields))

    def window(
        self, axis: int, step: Fraction | int, before: Fraction | int, after: Fraction | int
    ) -> AxisField | None:
        """Return an axis of the first input read as by :meth:`AxisField.read`, with padding."""
        field = self.first[axis]
        if field is None:
            return None
        # Padding beside a part of a picture stands for pixels beyond it: none of the part's own.
        end = self.picture[field.side] - field.jump * self.read[axis]
        if field.first > field.jump - 1 or field.last < end:
            self.note("pads what was cut off")
        return field.read(step, before, after)


def fields_of(step: Step) -> Fields:
    """Return the fields of what an operator gives."""
    node = step.node
    rule = _RULES.get(node.op_type)
    try:
        if rule is not None and node.domain in ("", "ai.onnx"):
            found = rule(step)
            alone = step.fields.keys().isdisjoint(node.input[1:])
            if len(found) == len(step.written) and (alone or rule in (_broadcast, _concatenated)):
                return found
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        pass  # a shape or a value is not known
    step.note("is none whose surroundings are known")
    return (None,) * len(step.shapes.get(node.output[0], ()))


def _kept(step: Step) -> Fields:
    return step.first


def _broadcast(step: Step, skipped: int | None = None) -> Fields:
    rank = len(step.written)
    joined: list[AxisField | None] = [None] * rank
    lone: list[int] = []  # axes that vary along no side of the picture
    for name in filter(None, step.node.input):
        shape = step.shapes[name]
        fields = step.fields.get(name, (None,) * len(shape))
        for axis, (size, field) in enumerate(zip(shape, fields, strict=True), rank - len(shape)):
            one = joined[axis]
            if field is None:
                lone += [axis] if size > 1 and axis != skipped else []
            else:
                joined[axis] = field if one is None else one.joined(field)
                if joined[axis] is None:
                    step.note("joins what does not lie pixel on pixel")
                    joined[axis] = field
    if any(joined[axis] is not None for axis in lone):
        step.note("joins the picture with what depends on the place")
    return tuple(joined)


def _concatenated(step: Step) -> Fields:
    axis = step.attributes["axis"] % len(step.written)
    return step.without(_broadcast(step, axis), [axis])


def _multiplied(step: Step) -> Fields:
    return step.without(step.first, [-1])


def _convolved(step: Step) -> Fields:
    given = step.attributes
    kernel = given.get("kernel_shape") or step.shapes[step.node.input[1]][2:]
    ones = [1] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    pads = given.get("pads", [0] * 2 * len(kernel))[: len(kernel)]
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in given:
        raise ValueError
    fields = list(step.without(step.first, (0, 1))[:2])
    for axis, (k, s, d, pad) in enumerate(zip(kernel, strides, dilations, pads, strict=True), 2):
        reach = (k - 1) * d
        if step.node.op_type == "ConvTranspose":
            field = step.window(axis, Fraction(1, s), Fraction(pad - reach, s), Fraction(pad, s))
        else:
            field = step.window(axis, s, -pad, reach - pad)
        fields.append(field)
    return tuple(fields)


def _depth_to_space(step: Step) -> Fields:
    s = step.attributes["blocksize"]
    fields = step.without(step.first, (0, 1))[:2]
    return (*fields, *(step.window(axis, Fraction(1, s), Fraction(1 - s, s), 0) for axis in (2, 3)))


def _resized(step: Step) -> Fields:
    given = step.attributes
    place = given.get("coordinate_transformation_mode", b"half_pixel")
    reach = {b"nearest": 1, b"linear": 1, b"cubic": 2}[given.get("mode", b"nearest")]
    if given.get("antialias", 0):
        raise ValueError
    fields = list(step.first)
    for axis, (read, written) in enumerate(zip(step.read, step.written, strict=True)):
        if read != written:
            pace = Fraction(read, written)
            # Another mode, align_corners, puts pixels on no grid.
            offset = {
                b"half_pixel": (pace - 1) / 2, b"pytorch_half_pixel": (pace - 1) / 2,
                b"asymmetric": Fraction(0),
            }[place]  # fmt: skip
            fields[axis] = step.window(axis, pace, offset - reach, offset + reach)
    return tuple(fields)


def _sliced(step: Step) -> Fields:
    starts = step.constants[step.node.input[1]]
    axes = step.constant(3) or range(len(starts))
    steps = step.constant(4) or [1] * len(starts)
    fields = list(step.first)
    for start, axis, pace in zip(starts, axes, steps, strict=True):
        field, size = fields[axis], step.read[axis]
        if field is not None:
            if pace < 1:
                raise ValueError
            begin = max(0, min(size, start + size if start < 0 else start))
            fields[axis] = field.read(pace, begin, begin)
    return tuple(fields)


def _padded(step: Step) -> Fields:
    pads = step.constants[step.node.input[1]]
    axes = step.constant(3) or range(len(pads) // 2)
    if step.attributes.get("mode", b"constant") == b"wrap":
        raise ValueError
    fields = list(step.first)
    for axis, pad in zip(axes, pads[: len(pads) // 2], strict=True):
        fields[axis] = step.window(axis, 1, -pad, -pad)
    return tuple(fields)


def _transposed(step: Step) -> Fields:
    order = step.attributes.get("perm") or range(len(step.first))[::-1]
    return tuple(step.first[axis] for axis in order)


def _reduced(step: Step) -> Fields:
    rank, given = len(step.first), step.attributes
    axes: Iterable[int] = given.get("axes") or step.constant(1) or range(rank)
    if step.node.op_type == "ArgMax":
        axes = [given.get("axis", 0)]
    fields = step.without(step.first, axes)
    if given.get("keepdims", 1):
        return fields
    gone = {axis % rank for axis in axes}
    return tuple(field for axis, field in enumerate(fields) if axis not in gone)


def _along_an_axis(step: Step) -> Fields:
    axis = step.attributes.get("axis", 0 if step.node.op_type == "Split" else -1)
    return step.without(step.first, [axis])


def _along_last_axes(step: Step) -> Fields:
    rank = len(step.first)
    return step.without(step.first, range(step.attributes.get("axis", -1) % rank, rank))


def _whole_picture(step: Step) -> Fields:
    return step.without(step.first, range(2, len(step.first)))


def _reshaped(step: Step) -> Fields:
    """Find axes again, by their size and that of what lies before them."""
    read, written = step.read, step.written
    places = {(prod(written[:axis]), size): axis for axis, size in enumerate(written)}
    fields: list[AxisField | None] = [None] * len(written)
    for axis, field in enumerate(step.first):
        if field is not None:
            place = places.get((prod(read[:axis]), read[axis]))
            if place is None:
                step.note("mixes rows and columns")
            else:
                fields[place] = field
    return tuple(fields)


_NAMES: dict[Callable[[Step], Fields], str] = {
    _kept: "Identity Cast Relu LeakyRelu Elu Selu Sigmoid HardSigmoid HardSwish Tanh Softplus Gelu "
    "Mish Swish Erf Exp Log Sqrt Reciprocal Neg Abs Floor Ceil Round Sign Not Clip QuantizeLinear "
    "DequantizeLinear BatchNormalization",
    _broadcast: "Add Sub Mul Div Pow Mod Min Max Mean Sum Where Equal Greater GreaterOrEqual Less "
    "LessOrEqual And Or PRelu",
    _concatenated: "Concat",
    _convolved: "Conv MaxPool AveragePool ConvTranspose",
    _depth_to_space: "DepthToSpace",
    _resized: "Resize",
    _sliced: "Slice",
    _padded: "Pad",
    _transposed: "Transpose",
    _reduced: "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ArgMax",
    _along_an_axis: "Softmax LogSoftmax Split",
    _along_last_axes: "LayerNormalization",
    _whole_picture: "GlobalAveragePool GlobalMaxPool InstanceNormalization",
    _multiplied: "MatMul",
    _reshaped: "Reshape Squeeze Unsqueeze Flatten",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}
