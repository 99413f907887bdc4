"""Logits in fewer bytes, for a certificate: rounded finely, then packed without loss.

    logits ──round to a step──▶ whole numbers ──differences along both axes──▶ small ones ──zlib

Logits of a segmentation network are upsampled, so they are smooth: their second differences are
small numbers.  Those of a trained fcn32s-resnet18, whose upsampling is learned, take 2 bytes each.
The step is 2⁻²¹ of the picture's largest spread at most (or as fine as float32 is
there), so what rounding adds to ε is 2.4e-7 of the spread: a fortieth of what the gate of float32
allows.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, InputError

#: The step as a share of the spread, and as a share of the largest logit: finer than float32 is
#: of no use.
_OF_SPREAD, _OF_LARGEST = 2.0**-21, 2.0**-24
#: How often differences are taken along each axis.
_ORDER = 2
Logits = NDArray[np.float32]


def pack_logits(logits: Logits) -> tuple[bytes, float]:
    """Return float32 [C, H, W] as bytes, and the step that they were rounded to.

    Raises:
        InputError: a logit is NaN or infinite.
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the reference's logits are NaN or infinite", "look at the checkpoint's weights"
        )
    spread = float((logits.max(axis=0) - logits.min(axis=0)).max())
    largest = float(np.abs(logits).max())
    wanted = max(spread * _OF_SPREAD, largest * _OF_LARGEST)
    step = 2.0 ** math.floor(math.log2(wanted)) if wanted else 1.0
    numbers = np.rint(logits.astype(np.float64) / step).astype(np.int32)
    for axis in (1, 2):
        for _ in range(_ORDER):
            numbers = np.diff(numbers, axis=axis, prepend=np.int32(0))
    folded = (numbers << 1 ^ numbers >> 31).view(np.uint32)  # small ones of both signs are small
    planes = folded.reshape(-1).astype("<u4").view(np.uint8).reshape(-1, 4).T
    return zlib.compress(np.ascontiguousarray(planes).tobytes(), 6), step


def unpack_logits(packed: bytes, step: float, shape: tuple[int, int, int]) -> Logits:
    """Return what was packed, float32 [C, H, W], each within half a step.

    Raises:
        ArtifactError: it is damaged, or of another shape.
    """
    expected = 4 * math.prod(shape)
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(packed, expected + 1)  # and not the bomb behind
    except zlib.error as error:
        raise ArtifactError(f"packed logits are damaged ({error})") from error
    if len(content) != expected or unpacker.unused_data or not unpacker.eof:
        raise ArtifactError(f"packed logits are damaged: expected {expected} bytes")
    planes = np.frombuffer(content, dtype=np.uint8).reshape(4, -1)
    folded = np.ascontiguousarray(planes.T).view("<u4").astype(np.uint32).reshape(shape)
    numbers = (folded >> np.uint32(1)).view(np.int32) ^ -(folded & np.uint32(1)).view(np.int32)
    for axis in (2, 1):
        for _ in range(_ORDER):
            numbers = np.cumsum(numbers, axis=axis, dtype=np.int32)
    logits: Logits = (numbers * step).astype(np.float32)
    return logits
