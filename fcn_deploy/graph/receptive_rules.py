"""What each ONNX operator does to receptive fields; see :mod:`fcn_deploy.graph.receptive_field`.

An operator that is not known, or that looks along a whole side of the picture, is noted as a
problem; its output is then taken for one that has no position, so that the walk can go on and learn
the stride.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any

from fcn_deploy.graph.receptive_axes import AxisField, Fields, Shape

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class _Step:
    node: onnx.NodeProto
    fields: Mapping[str, Fields]  # of the tensors that depend on the picture
    shapes: Mapping[str, Shape]
    constants: Mapping[str, list[Any]]  # small ones, flat
    picture: Shape
    problems: list[str]

    def attribute(self, name: str, default: Any = None) -> Any:
        from onnx import helper

        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def constant(self, place: int) -> list[Any] | None:
        return self.constants.get(self.node.input[place]) if place < len(self.node.input) else None

    def of(self, place: int) -> Fields:
        name = self.node.input[place]
        return self.fields.get(name, (None,) * len(self.shapes[name]))

    @property
    def first(self) -> Fields:
        return self.of(0)

    @property
    def read(self) -> Shape:
        return self.shapes[self.node.input[0]]

    @property
    def written(self) -> Shape:
        return self.shapes[self.node.output[0]]

    def note(self, what: str) -> None:
        name = f" ({self.node.name})" if self.node.name else ""
        self.problems.append(f"its {self.node.op_type}{name} {what}")

    def without(self, fields: Fields, axes: Sequence[int]) -> Fields:
        wanted = {axis % len(fields) for axis in axes}
        if any(fields[axis] is not None for axis in wanted):
            self.note("looks at the whole picture")
        return tuple(None if axis in wanted else field for axis, field in enumerate(fields))


Rule = Callable[[_Step], Fields]


def fields_of(
    node: onnx.NodeProto,
    fields: Mapping[str, Fields],
    shapes: Mapping[str, Shape],
    constants: Mapping[str, list[Any]],
    picture: Shape,
) -> tuple[Fields, list[str]]:
    """Return the fields of what a node gives, and what keeps it from seeing its surroundings alone.

    Args:
        node: the operator.
        fields: of the tensors that depend on the picture.
        shapes: of all tensors.
        constants: values of small ones, flat.
        picture: (H, W).
    """
    step = _Step(node, fields, shapes, constants, picture, [])
    rule = _RULES.get(node.op_type)
    try:
        if rule is not None and node.domain in ("", "ai.onnx"):
            found = rule(step)
            if len(found) == len(step.written):
                return found, step.problems
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError):
        pass  # a shape or a value is not known
    step.note("is none whose surroundings are known")
    return (None,) * len(shapes.get(node.output[0], ())), step.problems


def _kept(step: _Step) -> Fields:
    return step.first


def _broadcast(step: _Step, skipped: int | None = None) -> Fields:
    rank = len(step.written)
    joined: list[AxisField | None] = [None] * rank
    places = [place for place, name in enumerate(step.node.input) if name]
    for place in places:
        for axis, field in enumerate(reversed(step.of(place)), 1):
            _join(step, joined, rank - axis, field)
    for place in places:  # what else varies along a side of the picture depends on the place
        shape = step.shapes[step.node.input[place]]
        for axis, (size, field) in enumerate(
            zip(shape, step.of(place), strict=True), rank - len(shape)
        ):
            if joined[axis] is not None and field is None and size > 1 and axis != skipped:
                step.note("joins the picture with what depends on the place")
    return tuple(joined)


def _join(step: _Step, joined: list[AxisField | None], axis: int, field: AxisField | None) -> None:
    one = joined[axis]
    if field is not None:
        joined[axis] = field if one is None else one.joined(field)
        if joined[axis] is None:
            step.note("joins what does not lie pixel on pixel")
            joined[axis] = field


def _concatenated(step: _Step) -> Fields:
    axis = step.attribute("axis") % len(step.written)
    return step.without(_broadcast(step, axis), [axis])


def _product(step: _Step) -> Fields:
    left, right = step.of(0), step.of(1)
    if min(len(left), len(right)) < 2:
        raise ValueError
    left, right = step.without(left, [-1]), step.without(right, [-2])
    rank = len(step.written)
    joined: list[AxisField | None] = [None] * rank
    for fields in (left[:-2], right[:-2]):
        for axis, field in enumerate(fields, rank - 2 - len(fields)):
            _join(step, joined, axis, field)
    return (*joined[:-2], left[-2], right[-1])


def _windows(step: _Step) -> list[tuple[int, int, int, int]]:
    """Return (kernel's reach, stride, pad before, size read) along each spatial axis."""
    kernel = step.attribute("kernel_shape") or step.shapes[step.node.input[1]][2:]
    ones = [1] * len(kernel)
    strides, dilations = step.attribute("strides", ones), step.attribute("dilations", ones)
    pads = list(step.attribute("pads", [0] * 2 * len(kernel)))[: len(kernel)]
    auto = step.attribute("auto_pad", b"NOTSET")
    windows = []
    for k, s, d, pad, size in zip(kernel, strides, dilations, pads, step.read[2:], strict=True):
        reach = (k - 1) * d
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max((-(-size // s) - 1) * s + reach + 1 - size, 0)
            pad = total // 2 if auto == b"SAME_UPPER" else total - total // 2
        windows.append((reach, s, pad, size))
    return windows


def _along(
    step: _Step, windows: Sequence[tuple[Fraction | int, Fraction | int, Fraction | int, int]]
) -> Fields:
    """Return the fields of a window (step, before, after, size read) along each spatial axis."""
    if any(name in step.fields for name in step.node.input[1:]):
        raise ValueError  # weights that depend on the picture
    fields: list[AxisField | None] = [None, None]
    for field, (pace, before, after, size) in zip(step.first[2:], windows, strict=True):
        fields.append(field and field.padded(size, step.picture).read(pace, before, after))
    return (*step.without(step.first, (0, 1))[:2], *fields[2:])


def _convolved(step: _Step) -> Fields:
    return _along(step, [(s, -pad, reach - pad, n) for reach, s, pad, n in _windows(step)])


def _transposed_convolved(step: _Step) -> Fields:
    if step.attribute("auto_pad", b"NOTSET") != b"NOTSET" or step.attribute("output_shape"):
        raise ValueError
    return _along(
        step,
        [(Fraction(1, s), Fraction(pad - reach, s), Fraction(pad, s), n)
         for reach, s, pad, n in _windows(step)],
    )  # fmt: skip


def _resized(step: _Step) -> Fields:
    mode = step.attribute("mode", b"nearest")
    place = step.attribute("coordinate_transformation_mode", b"half_pixel")
    reach = {b"nearest": 1, b"linear": 1, b"cubic": 2}[mode]
    if step.attribute("antialias", 0):
        raise ValueError
    fields: list[AxisField | None] = []
    for field, read, written in zip(step.first, step.read, step.written, strict=True):
        if field is None or read == written:
            fields.append(field)
            continue
        pace = Fraction(read, written)
        offset = Fraction(0)
        if place == b"align_corners":
            pace = Fraction(read - 1, written - 1)
        elif place in (b"half_pixel", b"pytorch_half_pixel"):
            offset = (pace - 1) / 2
        elif place != b"asymmetric":
            raise ValueError
        fields.append(field.padded(read, step.picture).read(pace, offset - reach, offset + reach))
    return tuple(fields)


def _sliced(step: _Step) -> Fields:
    starts, ends = step.constants[step.node.input[1]], step.constants[step.node.input[2]]
    axes = step.constant(3) or range(len(starts))
    steps = step.constant(4) or [1] * len(starts)
    fields = list(step.first)
    for start, _, axis, pace in zip(starts, ends, axes, steps, strict=True):
        field, size = fields[axis], step.read[axis]
        if field is not None:
            if pace < 1:
                raise ValueError
            begin = max(0, min(size, start + size if start < 0 else start))
            fields[axis] = field.read(pace, begin, begin)
    return tuple(fields)


def _padded(step: _Step) -> Fields:
    pads = step.constants[step.node.input[1]]
    axes = step.constant(3) or range(len(pads) // 2)
    if step.attribute("mode", b"constant") == b"wrap":
        raise ValueError
    fields = list(step.first)
    for place, axis in enumerate(axes):
        field, size = fields[axis], step.read[axis]
        if field is not None:
            fields[axis] = field.padded(size, step.picture).read(1, -pads[place], -pads[place])
    return tuple(fields)


def _depth_to_space(step: _Step) -> Fields:
    s = step.attribute("blocksize")
    n = step.read
    return _along(
        step,
        [
            (Fraction(1, s), Fraction(1 - s, s), 0, n[2]),
            (Fraction(1, s), Fraction(1 - s, s), 0, n[3]),
        ],
    )


def _transposed(step: _Step) -> Fields:
    order = step.attribute("perm") or range(len(step.first))[::-1]
    return tuple(step.first[axis] for axis in order)


def _reduced(step: _Step) -> Fields:
    axes = step.attribute("axes") or step.constant(1)
    if axes is None:
        if step.attribute("noop_with_empty_axes", 0):
            return step.first
        axes = range(len(step.first))
    return _without_axes(step, axes)


def _best(step: _Step) -> Fields:
    return _without_axes(step, [step.attribute("axis", 0)])


def _without_axes(step: _Step, axes: Sequence[int]) -> Fields:
    fields = step.without(step.first, axes)
    if step.attribute("keepdims", 1):
        return fields
    gone = {axis % len(fields) for axis in axes}
    return tuple(field for axis, field in enumerate(fields) if axis not in gone)


def _along_axis(default: int) -> Rule:
    return lambda step: step.without(step.first, [step.attribute("axis", default)])


def _normalised_from(step: _Step) -> Fields:
    rank = len(step.first)
    return step.without(step.first, range(step.attribute("axis", -1) % rank, rank))


def _whole_picture(step: _Step) -> Fields:
    return step.without(step.first, range(2, len(step.first)))


def _reshaped(step: _Step) -> Fields:
    """Follow axes through a Reshape, which splits and merges them in the order of memory."""
    read, written, fields = step.read, step.written, step.first
    result: list[AxisField | None] = []
    at = 0
    while len(result) < len(written) or at < len(read):
        old, new = (
            [at] if at < len(read) else [],
            [len(result)] if len(result) < len(written) else [],
        )
        count, wanted = prod(read[i] for i in old), prod(written[i] for i in new)
        while count != wanted:
            longer = old if count < wanted else new
            longer.append(longer[-1] + 1)
            count, wanted = prod(read[i] for i in old), prod(written[i] for i in new)
        at += len(old)
        result += _regrouped(step, [(read[i], fields[i]) for i in old], [written[i] for i in new])
    return tuple(result)


def _regrouped(
    step: _Step, old: Sequence[tuple[int, AxisField | None]], new: Sequence[int]
) -> list[AxisField | None]:
    """Return the fields of axes that hold the values of others, in the same order."""
    found = [(size, field) for size, field in old if size > 1 or field is not None]
    result: list[AxisField | None] = [None] * len(new)
    if all(field is None for _, field in found):
        return result
    places = [place for place, size in enumerate(new) if size > 1]
    (size, field), *inner = found
    if field is None or any(other is not None for _, other in inner):
        step.note("mixes rows and columns")
    elif len(places) == 1:  # positions, and the places within each: side by side
        s = prod(size for size, _ in inner)
        result[places[0]] = field.read(Fraction(1, s), Fraction(1 - s, s), 0)
    elif not inner:  # positions in groups
        s = size // new[places[0]]
        result[places[0]] = field.read(s, 0, s - 1)
    else:
        step.note("mixes rows and columns")
    return result


def _rules() -> dict[str, Rule]:
    by_rule: dict[Rule, str] = {
        _kept: "Identity Cast Relu LeakyRelu Elu Selu Celu ThresholdedRelu Sigmoid HardSigmoid "
        "HardSwish Tanh Softplus Softsign Gelu Mish Swish Erf Exp Log Sqrt Reciprocal Neg Abs "
        "Floor Ceil Round Sign Not Clip QuantizeLinear DequantizeLinear BatchNormalization "
        "Dropout IsNaN",
        _broadcast: "Add Sub Mul Div Pow Mod Min Max Mean Sum Where Equal Greater GreaterOrEqual "
        "Less LessOrEqual And Or Xor PRelu",
        _concatenated: "Concat",
        _convolved: "Conv MaxPool AveragePool",
        _transposed_convolved: "ConvTranspose",
        _resized: "Resize",
        _sliced: "Slice",
        _padded: "Pad",
        _depth_to_space: "DepthToSpace",
        _transposed: "Transpose",
        _reduced: "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2",
        _best: "ArgMax ArgMin",
        _along_axis(-1): "Softmax LogSoftmax Hardmax",
        _along_axis(0): "Split",
        _normalised_from: "LayerNormalization",
        _whole_picture: "GlobalAveragePool GlobalMaxPool InstanceNormalization",
        _product: "MatMul",
        _reshaped: "Reshape Squeeze Unsqueeze Flatten",
    }
    return {name: rule for rule, names in by_rule.items() for name in names.split()}


_RULES = _rules()
