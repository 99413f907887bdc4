"""Whether labels tell that a network from ONNX is fed with channels in the wrong order.

Its files and its original are fed alike, so the gate passes in either order: only labels know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.dataset import Sample
from fcn_deploy.data.metrics import ConfusionMatrix
from fcn_deploy.parity.inputs import Pictures
from fcn_deploy.runners.base import Runner

#: Labelled pictures that are looked at, each in both orders.
MOST_PICTURES = 16
#: Points of mean IoU by which the other order must be better: of an order that hardly matters
#: either may be ahead by chance.
TELLING_POINTS = 5.0


def channel_order_note(reference: Runner, pictures: Pictures) -> str | None:
    """Return what to say where labels fit better with red and blue exchanged.

    Args:
        reference: the original, open.
        pictures: labelled; of others nothing can be told.
    """
    own = exchanged = ConfusionMatrix.empty(reference.spec.num_classes)
    count = min(pictures.count, MOST_PICTURES)
    for index in range(count):
        picture = pictures.picture(index)
        if not isinstance(picture, Sample):
            return None
        image = picture.image[None]
        own += _counted(reference, picture, image)
        exchanged += _counted(reference, picture, image[..., ::-1])
    before, after = 100 * own.mean_iou(), 100 * exchanged.mean_iou()
    if not after - before >= TELLING_POINTS:  # NaN where nothing is labelled
        return None
    return (
        f"the labels fit the original better with red and blue exchanged: mIoU {after:.1f} instead "
        f"of {before:.1f} on {count} pictures; import it again with the other --channels"
    )


def _counted(reference: Runner, sample: Sample, image: NDArray[np.uint8]) -> ConfusionMatrix:
    mask = reference.run(np.ascontiguousarray(image)).mask[0]
    return ConfusionMatrix.of(sample.mask, mask, reference.spec.num_classes)
