"""A runner without a backend, for tests of whoever receives runners."""

import time
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange, ordered_outputs
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.metrics import margin_of
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

FAKE_SPEC = ModelSpec(
    architecture="fcn32s-resnet18",
    class_names=("background", "red", "green", "ochre", "blue"),
    palette=voc_palette(5),
    image_sizes=SizeRange(smallest=(48, 64), typical=(48, 64), largest=(97, 131)),
)


class FakeRunner(Runner):
    """A numpy "network": the logit of a class is minus the distance to the class's colour.

    So a picture of flat class colours is segmented without an error, by the palette of ``spec``.

    Args:
        spec: classes and palette.
        backend: name to go by in descriptions.
        precision: to claim in the description, of the arithmetic too; it changes no figure.
        outputs: of ``mask``, ``logits``, ``margin``.
        noise: largest change of any logit; a picture gets the same noise in every batch.
        seed: of the noise.
        see: called with the images before the network, e.g. to swap channels.
        bug: called with the checked images and the outputs; what it returns is the result.
        seconds: to sleep in each run.
        device: name to go by in descriptions.
        threads: to claim in the description.
        digest: of the model file that is not there.
        checkpoint_digest: of the checkpoint that it claims to stem from.

    Attributes:
        shapes: of the images of each run so far.
        closed: whether ``close`` was called.
    """

    def __init__(
        self,
        spec: ModelSpec = FAKE_SPEC,
        *,
        backend: str = "fake",
        precision: Precision = Precision.FP32,
        outputs: Iterable[str] = ("mask", "logits", "margin"),
        noise: float = 0.0,
        seed: int = 0,
        see: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
        bug: Callable[[NDArray[np.uint8], Outputs], Outputs] | None = None,
        seconds: float = 0.0,
        device: str = "cpu",
        threads: int = 1,
        digest: str = "sha256:fake",
        checkpoint_digest: str = "sha256:fake-checkpoint",
    ) -> None:
        self._spec = spec
        self._description = RunnerDescription(
            backend=backend,
            device=device,
            precision=precision.value,
            arithmetic=precision.value,
            library="fake 1.0",
            threads=threads,
            file=f"{backend}.fake",
            digest=digest,
            checkpoint_digest=checkpoint_digest,
        )
        self._outputs = ordered_outputs(outputs)
        self._noise = noise
        self._seed = seed
        self._see = see
        self._bug = bug
        self._seconds = seconds
        self.shapes: list[tuple[int, ...]] = []
        self.closed = False

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def describe(self) -> RunnerDescription:
        return self._description

    def close(self) -> None:
        self.closed = True

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self.closed:
            raise BackendError(f"the {self._description.backend} runner is closed")
        self.shapes.append(images.shape)
        if self._seconds:
            time.sleep(self._seconds)
        seen = images if self._see is None else self._see(images)
        logits = np.stack([self._logits(image) for image in seen])  # (N, C, H, W)
        outputs = Outputs(
            mask=logits.argmax(axis=1).astype(np.uint8),
            logits=logits if "logits" in self._outputs else None,
            margin=margin_of(logits) if "margin" in self._outputs else None,
        )
        return outputs if self._bug is None else self._bug(images, outputs)

    def _logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        colours = np.array(self._spec.palette, dtype=np.float32)[:, None, None]  # (C, 1, 1, 3)
        distance = np.sqrt(((image.astype(np.float32) - colours) ** 2).sum(axis=3))
        logits: NDArray[np.float32] = -distance / np.float32(25.5)  # (C, H, W), 0 to about -17
        # Whole-numbered colours make exact ties, which the least rounding flips; real logits don't.
        logits -= np.arange(len(colours), dtype=np.float32)[:, None, None] / np.float32(100)
        if self._noise:
            place_free = [self._seed, zlib.crc32(np.ascontiguousarray(image).tobytes())]
            generator = np.random.default_rng(place_free)
            noise = generator.uniform(-self._noise, self._noise, logits.shape)
            logits = logits + noise.astype(np.float32)
        return logits


def one_behind(runner: Runner, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
    """A stream that gives each batch the masks of the one before, where these have its shape."""
    before: Outputs | None = None
    for images in batches:
        outputs = runner.run(images)
        yield outputs if before is None or before.mask.shape != outputs.mask.shape else before
        before = outputs


class OneBehind(FakeRunner):
    """A runner whose stream is late."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        return one_behind(self, batches)
