"""Finds out by trying what a network of another tool takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.spec import MAX_CLASSES
from fcn_deploy.graph.foreign.network import (
    Interface,
    quiet_session,
    reason_of,
    with_tensor_shown,
)
from fcn_deploy.graph.foreign.original import Original
from fcn_deploy.graph.foreign.preprocessing import Layout

#: (height, width) that every network is tried at whose sizes are free.
_USUAL = (192, 320)
#: Multiple → a size that is one of it and of nothing more; the first that is taken counts.
_ODD = {
    1: (97, 131), 2: (98, 134), 4: (100, 132), 8: (104, 136), 16: (112, 144), 32: (96, 160),
    64: (192, 320),
}  # fmt: skip
#: Sizes that the smallest is looked for among.
_SMALL = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256)
_EXPORT_AGAIN = "export it again"


def interface_of(original: Original, layout: Layout, *, align_corners: bool) -> Interface:
    """Run a network on noise of several sizes, and say what it takes and gives.

    Args:
        original: the network.
        layout: of its input.
        align_corners: how its logits are to be upsampled, where they are small.

    Raises:
        OnnxFileError: it does not run, or gives no logits of 2 to 256 classes.
    """
    return _Trials(original, layout).interface(align_corners)


@dataclass(frozen=True)
class _Given:
    """What a network gives for a picture of a size."""

    size: tuple[int, int]
    logits: NDArray[Any]
    classes: NDArray[Any] | None

    def scores(self, layout: Layout) -> tuple[int, int, int]:
        """Return (C, h, w) of the logits."""
        _, one, two, three = self.logits.shape
        return (one, two, three) if layout == "NCHW" else (three, one, two)


class _Trials:
    def __init__(self, original: Original, layout: Layout) -> None:
        self._original, self._layout = original, layout
        batch, one, two, three = original.input_sizes
        self._batch = batch
        self._height, self._width = (two, three) if layout == "NCHW" else (one, two)
        self._logits = original.argmax[0] if original.argmax else original.output_name
        content = original.content
        if original.argmax is not None:
            content = with_tensor_shown(original.model, self._logits).SerializeToString()
        self._session = quiet_session(content)
        self._failure = ""

    def interface(self, align_corners: bool) -> Interface:
        path = self._original.path
        usual = self._usual_size()
        first = self._given(self._batch or 1, usual)
        if first is None:
            raise OnnxFileError(
                f"{path} does not run on a picture of {usual[0]}×{usual[1]}: {self._failure}",
                "check --input-layout, or export it again",
            )
        layout = self._layout_of_logits(first)
        classes, height, width = first.scores(layout)
        if not 2 <= classes <= MAX_CLASSES:
            few = "a mask needs two at least" if classes < 2 else f"uint8 masks take {MAX_CLASSES}"
            raise OnnxFileError(
                f"{path} has {classes} class{'es' if classes > 1 else ''}, and {few}",
                "export a network with one channel of logits for each class",
            )
        if not np.isfinite(first.logits).all():
            raise OnnxFileError(f"{path} gives NaN or infinity", "the network is broken")
        upsampled = (height, width) != usual
        if first.classes is not None and first.classes.size != np.prod((self._batch or 1, *usual)):
            raise OnnxFileError(
                f"{path} gives a class map of another size than the picture",
                "export it with logits, which are upsampled, as its first output",
            )
        multiple = self._multiple(first, layout)
        free = InputShape(None, self._height, self._width, multiple)
        smallest = self._smallest(free, first, layout)
        shape = InputShape(self._batch_of(free), self._height, self._width, multiple, smallest)
        return Interface(
            self._original.input_name, self._original.output_name, self._logits, layout, classes,
            upsampled, align_corners, shape,
        )  # fmt: skip

    def _usual_size(self) -> tuple[int, int]:
        return self._height or _USUAL[0], self._width or _USUAL[1]

    def _given(self, batch: int, size: tuple[int, int]) -> _Given | None:
        """Return what the network gives for noise of a size; None where it refuses."""
        values = np.random.default_rng(0).standard_normal((batch, *size, 3)).astype(np.float32)
        if self._layout == "NCHW":
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        names = [self._logits]
        if self._original.argmax is not None:
            names.append(self._original.output_name)
        try:
            arrays = self._session.run(names, {self._original.input_name: values})
        except Exception as error:  # its exceptions share no base but Exception
            self._failure = reason_of(error)
            return None
        if arrays[0].ndim != 4:
            raise OnnxFileError(
                f"{self._original.path} gives {names[0]} of shape {list(arrays[0].shape)}, "
                "expected logits of four axes",
                "export it again with logits [N, C, H, W] as its first output",
            )
        if len(arrays[0]) != batch:
            return None
        return _Given(size, arrays[0], arrays[1] if len(arrays) > 1 else None)

    def _layout_of_logits(self, given: _Given) -> Layout:
        """Return the layout of the logits: that whose sizes fit the picture, or the input's."""
        if self._original.argmax is not None and (axis := self._original.argmax[1]) in (1, -3):
            return "NCHW"
        if self._original.argmax is not None:
            if axis in (3, -1):
                return "NHWC"
            raise OnnxFileError(
                f"the argmax of {self._original.path} runs along axis {axis}, which holds no "
                "classes",
                _EXPORT_AGAIN,
            )
        others: tuple[Layout, Layout] = ("NCHW", "NHWC")
        for layout in sorted(others, key=lambda name: name != self._layout):
            if _is_reduced(given.scores(layout)[1:], given.size):
                return layout
        raise OnnxFileError(
            f"{self._original.path} gives {list(given.logits.shape)} for a picture of "
            f"{given.size[0]}×{given.size[1]}, which are no logits of its pixels",
            "export it again with logits [N, C, H, W] as its first output",
        )

    def _multiple(self, first: _Given, layout: Layout) -> int:
        if self._height is not None and self._width is not None:
            return 1
        for multiple, odd in _ODD.items():
            if self._fits((self._height or odd[0], self._width or odd[1]), first, layout):
                return multiple
        raise OnnxFileError(
            f"{self._original.path} gives masks of the picture's size at none of the sizes that "
            "were tried",
            "export it again for a fixed size",
        )

    def _smallest(self, shape: InputShape, first: _Given, layout: Layout) -> int:
        if self._height is not None and self._width is not None:
            return 1
        for size in _SMALL:
            if size >= shape.multiple and self._fits(shape.fitted(size, size), first, layout):
                return size
        raise OnnxFileError(
            f"{self._original.path} takes no picture of {max(_SMALL)}×{max(_SMALL)} or below",
            "export it again for a fixed size",
        )

    def _fits(self, size: tuple[int, int], first: _Given, layout: Layout) -> bool:
        """Say whether a size is taken and gives logits that lie on it as on the first."""
        given = self._given(self._batch or 1, size)
        if given is None:
            return False
        before, after = first.scores(layout), given.scores(layout)
        if before[0] != after[0]:
            return False
        if before[1:] == first.size:
            return after[1:] == size
        return all(
            0 < got <= asked and abs(got - asked * part / whole) < 1
            for got, asked, part, whole in zip(after[1:], size, before[1:], first.size, strict=True)
        )

    def _batch_of(self, shape: InputShape) -> int | None:
        """Return the only batch that is taken; None where any is."""
        if self._batch is not None:
            return self._batch
        return None if self._given(2, shape.fitted(*self._usual_size())) is not None else 1


def _is_reduced(sizes: tuple[int, int], picture: tuple[int, int]) -> bool:
    """Say whether (h, w) is the picture's size, or a part of it alike in both."""
    height, width = sizes
    whole = 0 < height <= picture[0] and 0 < width <= picture[1]
    return whole and abs(height * picture[1] - width * picture[0]) <= max(picture)
