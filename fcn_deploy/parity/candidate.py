"""A candidate as it is compared, and as it ships; and the reference's logits, asked for once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from fcn_deploy.runners.base import Outputs, Runner

Batch = Sequence[NamedImage]


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
    _masks: dict[tuple[int, ...], NDArray[np.uint8]] = field(default_factory=dict)

    def run(self, batch: Batch, *, remember: bool = False) -> Outputs:
        """Run a batch in one go.

        Args:
            batch: pictures of one size.
            remember: keep the masks, so that :meth:`masks_of` need not ask again.

        Raises:
            InputError: the runner gives no logits.
        """
        outputs = self.runner.run(stacked(batch))
        if outputs.logits is None:
            raise InputError(
                "parity needs runners that give logits", "open them with outputs=logits"
            )
        if remember:
            self._masks[_key(batch)] = outputs.mask
        return outputs

    def takes(self, batch: Batch) -> bool:
        """Say whether a batch of that shape can be run; an engine is built for some shapes only."""
        if _key(batch) in self._masks:
            return True
        try:
            self._masks[_key(batch)] = self.runner.run(stacked(batch)).mask
        except FcnDeployError as error:
            if is_too_large(error):
                return False
            raise
        return True

    def masks_of(self, batch: Batch) -> NDArray[np.uint8]:
        """Return the masks of a batch that was run in one go, uint8 [N, H, W]."""
        if _key(batch) not in self._masks:
            self._masks[_key(batch)] = self.runner.run(stacked(batch)).mask
        return self._masks[_key(batch)]


def is_too_large(error: FcnDeployError) -> bool:
    """Say whether a runner refused a batch for its shape, or for want of memory."""
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
        self._known: dict[int, NDArray[np.float32]] = {}

    def of(self, picture: NamedImage) -> NDArray[np.float32]:
        """Return a picture's logits, float32 [C, H, W]."""
        if id(picture) not in self._known:
            logits = self._reference.run(picture.image[None]).logits
            if logits is None:
                raise InputError(
                    "parity needs runners that give logits", "open them with outputs=logits"
                )
            self._known[id(picture)] = logits[0]
        return self._known[id(picture)]

    def margin_of(self, picture: NamedImage) -> NDArray[np.float32]:
        """Return top-1 minus top-2 logit of a picture, float32 [H, W]."""
        margin: NDArray[np.float32] = margin_of(self.of(picture)[None])[0]
        return margin
