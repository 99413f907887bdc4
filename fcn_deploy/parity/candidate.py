"""A candidate as it is compared, and as it ships; and the reference's logits, asked for once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import (
    BackendError,
    BatchShapeError,
    DeviceMemoryError,
    FcnDeployError,
    InputError,
)
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.runners.base import Runner

Batch = Sequence[NamedImage]
Masks = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A runner that is compared, and how to open it as it ships.

    Attributes:
        runner: opened for ``mask`` and ``logits``.
        open_shipped: opens the same network for the mask alone, as `predict` does: some backends
            load or build something else for that, and for a stream.
    """

    runner: Runner
    open_shipped: Callable[[], Runner]
    _masks: dict[tuple[int, ...], Masks] = field(default_factory=dict)

    def run(self, batch: Batch, *, remember: bool = False) -> tuple[Masks, Logits]:
        """Run a batch in one go: masks uint8 [N, H, W], logits float32 [N, C, H, W].

        Args:
            batch: pictures of one size.
            remember: keep the masks, so that :meth:`masks_of` need not ask again.

        Raises:
            InputError: the runner gives no logits.
        """
        masks, logits = masks_and_logits(self.runner, stacked(batch))
        if remember:
            self._masks[_key(batch)] = masks
        return masks, logits

    def masks_of(self, batch: Batch) -> Masks:
        """Return the masks of a batch that was run in one go, uint8 [N, H, W]."""
        if _key(batch) not in self._masks:
            self._masks[_key(batch)] = self.runner.run(stacked(batch)).mask
        return self._masks[_key(batch)]


def masks_and_logits(runner: Runner, images: NDArray[np.uint8]) -> tuple[Masks, Logits]:
    """Return what a runner gives for uint8 [N, H, W, 3]: masks [N, H, W], logits [N, C, H, W].

    Raises:
        InputError: it was not opened for logits.
    """
    outputs = runner.run(images)
    if outputs.logits is None:
        raise InputError("parity needs runners that give logits", "open them with outputs=logits")
    return outputs.mask, outputs.logits


@contextmanager
def passing_over_too_large() -> Iterator[None]:
    """Leave a block early where a runner refuses a batch for its shape, or for want of memory.

    An engine is built for some shapes only, and a small device lacks the memory: neither proves
    anything against it.
    """
    try:
        yield
    except FcnDeployError as error:
        if not _is_too_large(error):
            raise


def _is_too_large(error: FcnDeployError) -> bool:
    if isinstance(error, BatchShapeError | DeviceMemoryError):
        return True
    # The libraries' exceptions share no base; what they are about is in their words alone.
    words = str(error).lower()
    return isinstance(error, BackendError) and ("alloc" in words or "out of memory" in words)


def _key(batch: Batch) -> tuple[int, ...]:
    # The pictures of the extras live as long as the comparison, so no two share an id.
    return tuple(map(id, batch))


def stacked(batch: Batch) -> NDArray[np.uint8]:
    """Return pictures of one size as uint8 [N, H, W, 3]."""
    return np.stack([picture.image for picture in batch])


class ReferenceLogits:
    """The reference's logits of pictures, each asked for once, however many candidates there are.

    Args:
        reference: opened for ``mask`` and ``logits``.
    """

    def __init__(self, reference: Runner) -> None:
        self._reference = reference
        self._known: dict[int, Logits] = {}

    def of(self, picture: NamedImage) -> Logits:
        """Return a picture's logits, float32 [C, H, W]."""
        if id(picture) not in self._known:
            _, logits = masks_and_logits(self._reference, picture.image[None])
            self._known[id(picture)] = logits[0]
        return self._known[id(picture)]

    def margin_of(self, picture: NamedImage) -> NDArray[np.float32]:
        """Return top-1 minus top-2 logit of a picture, float32 [H, W]."""
        margin: NDArray[np.float32] = margin_of(self.of(picture)[None])[0]
        return margin
