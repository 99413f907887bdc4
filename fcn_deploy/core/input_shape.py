"""InputShape: which batches of pictures a network takes, where it does not take all."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fcn_deploy.core.errors import BatchShapeError

#: Examples begin with these (height, width): one even, one odd.
_EXAMPLES = ((64, 96), (97, 131))


@dataclass(frozen=True)
class InputShape:
    """The batches [N, H, W, 3] that a network takes; without arguments: all.

    Attributes:
        batch: the only N; None: any.
        height: the only H in pixels; None: any.
        width: the only W in pixels; None: any.
        multiple: of which H and W must be multiples.
        smallest: the least H and W.
    """

    batch: int | None = None
    height: int | None = None
    width: int | None = None
    multiple: int = 1
    smallest: int = 1

    @property
    def takes_all(self) -> bool:
        """Whether no batch is refused."""
        return self == InputShape()

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Say whether a batch whose shape begins with (N, H, W) is taken."""
        images, height, width = shape[:3]
        return self.batch in (None, images) and self._takes_size(height, width)

    def _takes_size(self, height: int, width: int) -> bool:
        return all(
            size == fixed
            if fixed is not None
            else size % self.multiple == 0 and size >= self.smallest
            for size, fixed in ((height, self.height), (width, self.width))
        )

    def require(self, shape: tuple[int, ...]) -> None:
        """Refuse a batch whose shape, beginning with (N, H, W), is not taken.

        Raises:
            BatchShapeError: naming what is.
        """
        if self.takes(shape):
            return
        images, height, width = shape[:3]
        if not self._takes_size(height, width):
            raise BatchShapeError(
                f"the network takes pictures of {self.size_words}, not of {height}×{width}",
                "resize or pad the pictures, or name a size with --size for bench",
            )
        raise BatchShapeError(
            f"the network takes batches of {self.batch} pictures, not of {images}",
            f"use --batch {self.batch}",
        )

    @property
    def size_words(self) -> str:
        """Say which sizes are taken."""
        if self.height is not None and self.width is not None:
            return f"{self.height}×{self.width} alone"
        words = [
            f"{name} {fixed}"
            for name, fixed in (("height", self.height), ("width", self.width))
            if fixed is not None
        ]
        if self.multiple > 1:
            words.append(f"sizes that are multiples of {self.multiple}")
        if self.smallest > self.multiple:
            words.append(f"at least {self.smallest} pixels a side")
        return ", ".join(words) or "any size"

    @property
    def words(self) -> str:
        """Say which batches are taken."""
        batch = "any number" if self.batch is None else str(self.batch)
        return f"{self.size_words}, {batch} in a batch"

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Return the size that is taken and nearest above the one that is asked for."""
        sizes = []
        for size, fixed in ((height, self.height), (width, self.width)):
            least = max(size, self.smallest)
            sizes.append(-(-least // self.multiple) * self.multiple if fixed is None else fixed)
        return sizes[0], sizes[1]

    def examples(self) -> tuple[tuple[int, int, int], ...]:
        """Return a few (N, H, W) that are taken, small and different where they may be."""
        single, double = (1, 2) if self.batch is None else (self.batch, self.batch)
        shapes = [(single, *self.fitted(*size)) for size in _EXAMPLES]
        shapes.append((double, *self.fitted(33, 160)))
        shapes.append((single, *self.fitted(1, 1)))
        return tuple(dict.fromkeys(shapes))

    def to_json(self) -> dict[str, int | None]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Any) -> InputShape:
        """Read what :meth:`to_json` gave; None stands for any shape.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if entry is None:
            return cls()
        sizes = [entry[name] for name in ("batch", "height", "width")]
        batch, height, width = (None if size is None else int(size) for size in sizes)
        return cls(batch, height, width, int(entry["multiple"]), int(entry["smallest"]))


#: Of networks that take all batches.
ANY_SHAPE = InputShape()
