"""Reads saved outputs back: pictures, and a runner that answers from the files.

FILE.json + FILE-xxxxxxxx/*.npz ──read_recording──▶ Recording
                                                      ├─ pictures(): Pictures
                                                      ├─ runner(): answers what was asked
                                                      └─ shipped(): gives the stream again
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, BatchShapeError, InputError
from fcn_deploy.core.files import read_json
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.images import image_digest
from fcn_deploy.parity.inputs import ODD_SIZES, STREAM_LENGTH, Extras, Pictures
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

OUTPUTS_SCHEMA = 4
#: The option that saves outputs, for errors.
FLAG = "--save-outputs"
_REPAIR = f"record it again with `fcn-deploy parity … {FLAG}`, and copy its folder along"


@dataclass(frozen=True)
class _Entry:
    name: str
    use: str
    file: Path
    digest: str


@dataclass(frozen=True)
class _Batch:
    places: tuple[str, ...]
    file: Path


@dataclass(frozen=True)
class Recording:
    """What one runner gave, as read back; the arrays are loaded when they are asked for.

    Attributes:
        path: the JSON file.
        machine: where it was recorded, as JSON values.
        versions: distribution → version, there.
        description: of the runner.
        spec: of its network.
        source: where the pictures came from.
    """

    path: Path
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    description: RunnerDescription
    spec: ModelSpec
    source: str
    _entries: tuple[_Entry, ...]
    _batches: tuple[_Batch, ...]
    _stream: tuple[_Batch, ...]
    _refused: int

    def runner(self) -> Runner:
        """Return a runner that answers from the files, and only what was recorded."""
        return RecordedRunner(self)

    def shipped(self) -> Runner:
        """Return a runner whose stream is the one that was recorded."""
        return RecordedStream(self)

    def pictures(self) -> Pictures:
        """Return the pictures themselves, pixel by pixel what the runner was given."""
        given = self._used_for("picture")
        return Pictures(
            self.source,
            len(given),
            lambda index: self._picture(given[index]),
            lambda _first: self._extras(),
        )

    def _extras(self) -> Extras:
        known = {entry.digest: entry for entry in self._entries}
        loaded: dict[str, NamedImage] = {}

        def picture(digest: str) -> NamedImage:
            if digest not in loaded:
                loaded[digest] = self._picture(known[digest])
            return loaded[digest]

        def pictures_of(batch: _Batch) -> tuple[NamedImage, ...]:
            return tuple(map(picture, batch.places))

        odd = self._used_for("odd size")
        large = self._used_for("large")
        asked = {(entry.digest,) for entry in (*odd, *large)} | {b.places for b in self._batches}
        return Extras(
            odd_sizes=tuple(picture(entry.digest) for entry in odd),
            large=picture(large[0].digest) if large else None,
            batches=tuple(map(pictures_of, self._batches)),
            streamed=tuple(pictures_of(b) for b in self._stream if b.places not in asked),
        )

    def _used_for(self, use: str) -> list[_Entry]:
        return [entry for entry in self._entries if entry.use == use]

    def _picture(self, entry: _Entry) -> NamedImage:
        arrays = self._arrays(entry.file)
        image = self._array(arrays, entry.file, "image", np.uint8, (None, None, 3))
        if image_digest(image) != entry.digest:
            raise ArtifactError(
                f"{entry.file} holds another picture than {self.path} says", _REPAIR
            )
        labelled = entry.use == "picture" and "truth" in arrays
        if not labelled:
            return NamedImage(entry.name, image)
        truth = self._array(arrays, entry.file, "truth", np.uint8, image.shape[:2])
        return Sample(entry.name, image, truth)

    def answer(self, images: NDArray[np.uint8]) -> Outputs:
        """Return what the runner gave for ``images``, uint8 [N, H, W, 3].

        Raises:
            InputError: it was never asked.
            ArtifactError: the file is missing or damaged.
        """
        places = tuple(image_digest(image) for image in images)
        count, *size, _ = images.shape
        if count > 1:
            return self._answer_to_batch(places, (count, *size))
        entry = next((e for e in self._entries if (e.digest,) == places), None)
        if entry is None:
            # It was made for the comparison, and the runner that was recorded did not take it.
            raise BatchShapeError(f"{self.path} holds no answer to these pictures", _REPAIR)
        arrays = self._arrays(entry.file)
        mask = self._mask(arrays, entry.file, tuple(size))
        channels = (self.spec.num_classes, *size)
        logits = self._array(arrays, entry.file, "logits", np.float32, channels)
        return Outputs(mask[None], logits[None])

    def _answer_to_batch(self, places: tuple[str, ...], shape: tuple[int, ...]) -> Outputs:
        for batch in self._batches:
            if batch.places == places:
                arrays = self._arrays(batch.file)
                channels = (shape[0], self.spec.num_classes, *shape[1:])
                return Outputs(
                    self._mask(arrays, batch.file, shape),
                    self._array(arrays, batch.file, "logits", np.float32, channels),
                )
        for batch in self._stream:
            if batch.places == places:
                return Outputs(self._mask(self._arrays(batch.file), batch.file, shape))
        raise BatchShapeError(f"{self.path} holds no answer to this batch", _REPAIR)

    def streamed(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield what the stream gave for its batches, which are those that were recorded.

        Raises:
            InputError: it is another stream.
            ArtifactError: a file is missing or damaged.
        """
        left = list(self._stream)
        for images in batches:
            places = tuple(image_digest(image) for image in images)
            # What the other recording's engine did not take is passed over; the order stays.
            while left and left[0].places != places:
                left.pop(0)
            if not left:
                raise InputError(f"{self.path} holds another stream of batches", _REPAIR)
            file = left.pop(0).file
            yield Outputs(self._mask(self._arrays(file), file, images.shape[:3], "streamed"))

    def _mask(
        self,
        arrays: Mapping[str, NDArray[Any]],
        file: Path,
        shape: tuple[int, ...],
        name: str = "mask",
    ) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = self._array(arrays, file, name, np.uint8, shape)
        if int(mask.max()) >= self.spec.num_classes:
            raise ArtifactError(f"{file} is damaged: {name} holds an unknown class", _REPAIR)
        return mask

    def _arrays(self, file: Path) -> dict[str, NDArray[Any]]:
        try:
            with np.load(file, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        except FileNotFoundError as error:
            raise ArtifactError(f"no {file}, which {self.path} names", _REPAIR) from error
        except Exception as error:  # on foreign or cut off bytes, zipfile and numpy stumble anyhow
            raise ArtifactError(f"{file} is damaged ({error})", _REPAIR) from error

    def _array(
        self,
        arrays: Mapping[str, NDArray[Any]],
        file: Path,
        name: str,
        dtype: type[np.generic],
        shape: tuple[int | None, ...],
    ) -> NDArray[Any]:
        array = arrays.get(name)
        fits = (
            array is not None
            and array.dtype == dtype
            and array.ndim == len(shape)
            and array.size > 0
            and all(want in (None, have) for want, have in zip(shape, array.shape, strict=True))
        )
        if array is None or not fits:
            raise ArtifactError(f"{file} is damaged: no array {name} of the right shape", _REPAIR)
        return array


class RecordedRunner(Runner):
    """A runner that answers from a recording; it knows no other pictures."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._recording.spec

    def describe(self) -> RunnerDescription:
        """Say what the runner was, when it was recorded."""
        return self._recording.description

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        return self._recording.answer(images)

    def close(self) -> None:
        """Nothing is held."""


class RecordedStream(RecordedRunner):
    """A runner whose stream is the recorded one."""

    def stream(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield what was recorded of the stream, batch by batch."""
        return self._recording.streamed(batches)


def read_recording(path: Path) -> Recording:
    """Read what :func:`record` wrote.

    Raises:
        MissingStageError: there is no such file.
        ArtifactError: it is damaged, no recording, of another schema, or names files elsewhere.
    """
    fields = Fields(read_json(path, _REPAIR), path, _REPAIR)
    if fields.values.get("kind") != "outputs":
        raise ArtifactError(f"{path} holds no saved outputs", f"make some with {FLAG}")
    schema = fields.values.get("schema")
    if schema != OUTPUTS_SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema}, this version reads {OUTPUTS_SCHEMA}", _REPAIR
        )
    entries = tuple(
        _Entry(entry.text("name"), entry.text("use"), _inside(entry, "file"), entry.text("digest"))
        for entry in fields.children("pictures")
    )
    runner = fields.child("runner")
    description = RunnerDescription.from_fields(runner)
    if description.precision not in set(Precision):
        raise runner.wrong("precision", f"one of {', '.join(Precision)}")
    recording = Recording(
        path=path,
        machine=fields.child("machine").values,
        versions=fields.as_texts("versions"),
        description=description,
        spec=_spec(fields),
        source=fields.text("source"),
        _entries=entries,
        _batches=_batches(fields, "batches"),
        _stream=_batches(fields, "stream"),
        _refused=fields.non_negative_int("refused"),
    )
    _require_whole(recording)
    return recording


def _batches(fields: Fields, name: str) -> tuple[_Batch, ...]:
    return tuple(
        _Batch(entry.texts("places"), _inside(entry, "file")) for entry in fields.children(name)
    )


def _require_whole(recording: Recording) -> None:
    """Refuse a recording that was asked less than a live runner: its gate would be a weaker one."""
    path, taken = recording.path, recording.spec.input_shape
    odd_sizes = sum(taken.takes((1, *size)) for size in ODD_SIZES)
    uses = [entry.use for entry in recording._entries]
    if "picture" not in uses or uses.count("odd size") != odd_sizes:
        raise ArtifactError(f"{path} is damaged: pictures or odd sizes are missing", _REPAIR)
    known = {entry.digest for entry in recording._entries}
    batches, stream = recording._batches, recording._stream
    named = {digest for batch in (*batches, *stream) for digest in batch.places}
    unbatched = not batches and taken.takes_all
    if unbatched or any(len(b.places) < 2 for b in batches) or not known.issuperset(named):
        raise ArtifactError(f"{path} is damaged: a batch names no pictures of its own", _REPAIR)
    streamed = {batch.places for batch in stream}
    asked = {(entry.digest,) for entry in recording._entries if entry.use in ("odd size", "large")}
    complete = len(stream) + recording._refused == STREAM_LENGTH
    if not taken.takes_all:  # how many it takes depends on the pictures' size: some it does
        complete = bool(stream)
    if not complete or not streamed.issuperset(asked | {batch.places for batch in batches}):
        raise ArtifactError(f"{path} is damaged: its stream is not whole", _REPAIR)


def _inside(fields: Fields, name: str) -> Path:
    """Return a file that a recording names, which must lie below the recording's folder."""
    file = fields.text(name)
    found = fields.file.parent / file
    try:
        inside = found.resolve().is_relative_to(fields.file.parent.resolve())
    except (ValueError, OSError) as error:  # a zero byte, a loop of links
        raise fields.wrong(name, "the name of a file") from error
    if not inside:
        raise ArtifactError(
            f"{fields.file} names {file}, which lies outside its folder", fields.repair
        )
    return found


def _spec(fields: Fields) -> ModelSpec:
    text = fields.text("spec")
    try:
        return ModelSpec.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise fields.wrong("spec", f"the description of a network ({error!r})") from error


def require_comparable(reference: Recording, candidate: Recording) -> None:
    """Refuse recordings that say nothing about each other.

    Raises:
        InputError: the reference is not float32, or they are of different checkpoints or pictures;
            the first picture that differs is named.
    """
    if not reference.description.is_float32:
        held = reference.description
        raise InputError(
            f"{reference.path} holds {held.precision} outputs of {held.backend}, but the reference "
            "must be float32 all through",
            "name the reference first, the candidate second",
        )
    if reference.description.checkpoint_digest != candidate.description.checkpoint_digest:
        raise InputError(
            f"{candidate.path} stems from another checkpoint than {reference.path}",
            "export again and record both anew",
        )
    for one, other in ((reference, candidate), (candidate, reference)):
        known = {entry.digest for entry in other._entries}
        compared = (entry for entry in one._entries if entry.use in ("picture", "odd size"))
        missing = next((entry for entry in compared if entry.digest not in known), None)
        if missing is not None:
            raise InputError(
                f"picture {missing.name} of {one.path} is not in {other.path}",
                "record both with the same pictures, the same --limit and the same Pillow",
            )
    first, other_first = ([b.places for b in r._batches[:1]] for r in (reference, candidate))
    if first != other_first:
        raise InputError(
            f"{reference.path} and {candidate.path} tried different batches",
            "record both with the same version of fcn-deploy",
        )
