"""The certificate: what the reference gave for some pictures; a target is held against it.

    reference ──record_certificate──▶ certificate.json + 00000.png, 00000.mask.png, 00000.logits, …
                                                                        │
    candidate on the target ──▶ the gate of `parity` ◀──reference_of────┘

Beside the pictures lie the extras that `parity` asks for: odd sizes, batches, the stream; the large
picture is left out, its logits alone are as many as those of ten ordinary ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.bundle.logit_packing import pack_logits, unpack_logits
from fcn_deploy.core.errors import ArtifactError, BatchShapeError, BundleError, InputError
from fcn_deploy.core.files import json_bytes, read_json, write_bytes
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.images import image_digest, read_image
from fcn_deploy.data.masks import read_mask, write_mask, write_picture
from fcn_deploy.parity.candidate import masks_and_logits
from fcn_deploy.parity.inputs import FIRST_PICTURES, MOST_LOGITS, Extras, Pictures
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

CERTIFICATE_SCHEMA = 1
#: The file that names the others, in their folder.
FILE = "certificate.json"
_REPAIR = "make the bundle again with `fcn-deploy bundle`"
_PICTURE, _ODD_SIZE, _OTHER = "picture", "odd size", "other"


def record_certificate(
    reference: Runner,
    pictures: Pictures,
    folder: Path,
    *,
    on_picture: Callable[[], None] = lambda: None,
) -> int:
    """Ask the reference what `parity` asks it, and write its answers.

    Args:
        reference: float32, opened for ``mask`` and ``logits``.
        pictures: that ride along.
        folder: of the files.
        on_picture: called after each picture.

    Returns:
        Bytes written.

    Raises:
        InputError: there are no pictures, or the reference is not float32 or not finite.
        ArtifactError: the place cannot be written.
    """
    description = reference.describe()
    if not description.is_float32:
        raise InputError(f"the reference computes in {description.arithmetic}, not in float32")
    answers = _Answers(reference, folder)
    first: list[NamedImage] = []
    for picture in pictures:
        answers.save(picture, _PICTURE)
        if len(first) < FIRST_PICTURES:
            first.append(picture)
        on_picture()
    if not first:
        raise InputError("no pictures to certify on", "name a folder of pictures")
    extras = replace(pictures.extras(first), large=None).taken_by(reference.spec.input_shape)
    for picture in extras.odd_sizes:
        answers.save(picture, _ODD_SIZE)
    batches, streamed = answers.save_all(extras.batches), answers.save_all(extras.streamed)
    document = {
        "schema": CERTIFICATE_SCHEMA,
        "kind": "certificate",
        "reference": description.to_json(),
        "spec": reference.spec.to_json(),
        "source": pictures.source,
        "pictures": answers.entries,
        "batches": batches,
        "streamed": streamed,
    }
    write_bytes(folder / FILE, json_bytes(document))
    return sum(path.stat().st_size for path in folder.iterdir())


class _Answers:
    """The files of a certificate while it grows."""

    def __init__(self, reference: Runner, folder: Path) -> None:
        self._reference, self._folder = reference, folder
        self._known: set[str] = set()
        self.entries: list[dict[str, Any]] = []

    def save_all(self, batches: Sequence[Sequence[NamedImage]]) -> list[list[str]]:
        """Save the pictures of batches, each by itself; return their digests."""
        for batch in batches:
            for picture in batch:
                self.save(picture, _OTHER)
        return [[image_digest(picture.image) for picture in batch] for batch in batches]

    def save(self, picture: NamedImage, use: str) -> None:
        """Save a picture and its answer, unless it is there and has no use of its own."""
        digest = image_digest(picture.image)
        if digest in self._known and use == _OTHER:
            return
        self._known.add(digest)
        masks, logits = masks_and_logits(self._reference, picture.image[None])
        if logits.size > MOST_LOGITS:
            raise InputError(
                f"{picture.name} has too many pixels for {logits.shape[1]} classes to certify on",
                "name smaller pictures",
            )
        packed, step = pack_logits(logits[0])
        stem, palette = f"{len(self.entries):05}", self._reference.spec.palette
        write_picture(self._folder / f"{stem}.png", picture.image)
        write_mask(self._folder / f"{stem}.mask.png", masks[0], palette)
        write_bytes(self._folder / f"{stem}.logits", packed)
        labelled = isinstance(picture, Sample) and use == _PICTURE
        if isinstance(picture, Sample) and labelled:
            write_mask(self._folder / f"{stem}.truth.png", picture.mask, palette)
        self.entries.append(
            {
                "name": picture.name,
                "use": use,
                "stem": stem,
                "digest": digest,
                "step": step,
                "labelled": labelled,
            }
        )


@dataclass(frozen=True)
class _Entry:
    name: str
    use: str
    stem: str
    digest: str
    step: float
    labelled: bool


@dataclass(frozen=True)
class Certificate:
    """A certificate as read back; pictures and answers are loaded when they are asked for.

    Attributes:
        file: the JSON file.
        reference: what the answers are of.
        spec: of its network.
        source: where the pictures came from.
    """

    file: Path
    reference: RunnerDescription
    spec: ModelSpec
    source: str
    _entries: Mapping[str, _Entry]
    _pictures: tuple[str, ...]
    _odd_sizes: tuple[str, ...]
    _batches: tuple[tuple[str, ...], ...]
    _streamed: tuple[tuple[str, ...], ...]

    @property
    def imported(self) -> bool:
        """Whether the reference is a network that was imported from ONNX."""
        return self.reference.backend == "original"

    def runner(self) -> Runner:
        """Return a runner that answers from the files, and only what was asked."""
        return CertifiedRunner(self)

    def pictures(self) -> Pictures:
        """Return the pictures that ride along, and the extras that were made of them."""
        return Pictures(
            self.source,
            len(self._pictures),
            lambda index: self._picture(self._pictures[index]),
            lambda _first: self._extras(),
        )

    def _extras(self) -> Extras:
        loaded: dict[str, NamedImage] = {}

        def picture(key: str) -> NamedImage:
            # One object for each: a candidate's masks are remembered by picture.
            if key not in loaded:
                found = self._picture(key)
                loaded[key] = NamedImage(found.name, found.image)
            return loaded[key]

        def batches(keys: tuple[tuple[str, ...], ...]) -> tuple[tuple[NamedImage, ...], ...]:
            return tuple(tuple(map(picture, batch)) for batch in keys)

        odd_sizes = tuple(map(picture, self._odd_sizes))
        return Extras(odd_sizes, None, batches(self._batches), batches(self._streamed))

    def _picture(self, key: str) -> NamedImage:
        entry = self._entries[key]
        path = self._file(entry, "png")
        image = read_image(path)
        if image_digest(image) != entry.digest:
            raise BundleError(f"{path} holds another picture than {self.file} says", _REPAIR)
        if not entry.labelled:
            return NamedImage(entry.name, image)
        truth = read_mask(self._file(entry, "truth.png"), self.spec.palette)
        self._require_size(self._file(entry, "truth.png"), truth, image.shape[:2])
        return Sample(entry.name, image, truth)

    def answer(self, image: NDArray[np.uint8]) -> Outputs:
        """Return what the reference gave for one picture, uint8 [H, W, 3].

        Raises:
            BatchShapeError: it was never asked.
            ArtifactError: a file is missing or damaged.
        """
        digest, size = image_digest(image), image.shape[:2]
        entry = next((e for e in self._entries.values() if e.digest == digest), None)
        if entry is None:
            raise BatchShapeError(f"{self.file} holds no answer to this picture", _REPAIR)
        path = self._file(entry, "mask.png")
        mask = read_mask(path, self.spec.palette)
        self._require_size(path, mask, size)
        if int(mask.max()) >= self.spec.num_classes:
            raise BundleError(f"{path} holds an unknown class", _REPAIR)
        path = self._file(entry, "logits")
        shape = (self.spec.num_classes, size[0], size[1])
        try:
            logits = unpack_logits(path.read_bytes(), entry.step, shape)
        except OSError as error:
            raise BundleError(f"cannot read {path}: {error.strerror}", _REPAIR) from error
        except ArtifactError as error:
            raise BundleError(f"{path}: {error.message}", _REPAIR) from error
        return Outputs(mask[None], logits[None])

    def _file(self, entry: _Entry, suffix: str) -> Path:
        return self.file.with_name(f"{entry.stem}.{suffix}")

    def _require_size(self, path: Path, mask: NDArray[np.uint8], size: tuple[int, ...]) -> None:
        if mask.shape != size:
            raise BundleError(f"{path} has another size than its picture", _REPAIR)


class CertifiedRunner(Runner):
    """A runner that answers from a certificate; it knows no other pictures."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate

    @property
    def spec(self) -> ModelSpec:
        """Classes, colours, normalisation of the network."""
        return self._certificate.spec

    def describe(self) -> RunnerDescription:
        """Say what the reference was, when the bundle was made."""
        return self._certificate.reference

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if len(images) != 1:
            raise BatchShapeError("a certificate answers to single pictures", _REPAIR)
        return self._certificate.answer(images[0])

    def close(self) -> None:
        """Nothing is held."""


def certified_pictures(content: bytes) -> list[str]:
    """Return the digests of the pictures in a certificate, without those that were made of them.

    Args:
        content: of its file; one that is damaged holds none.
    """
    try:
        entries = json.loads(content)["pictures"]
        return [entry["digest"] for entry in entries if entry["use"] == _PICTURE]
    except (ValueError, TypeError, KeyError):
        return []


def read_certificate(file: Path) -> Certificate:
    """Read what :func:`record_certificate` wrote.

    Raises:
        BundleError: it is missing, damaged, of another schema, or asks less than `parity` does.
    """
    try:
        return _read(Fields(read_json(file, _REPAIR), file, _REPAIR))
    except BundleError:
        raise
    except ArtifactError as error:
        raise BundleError(error.message, error.repair) from error


def _read(fields: Fields) -> Certificate:
    file = fields.file
    if (fields.values.get("kind"), fields.values.get("schema")) != (
        "certificate",
        CERTIFICATE_SCHEMA,
    ):
        raise BundleError(f"{file} is no certificate of schema {CERTIFICATE_SCHEMA}", _REPAIR)
    entries = {}
    for found in fields.children("pictures"):
        entry = _Entry(
            found.text("name"),
            found.text("use"),
            found.text("stem"),
            found.text("digest"),
            found.positive("step"),
            found.flag("labelled"),
        )
        if not (entry.stem.isdigit() and entry.stem.isascii()):
            raise found.wrong("stem", "a number")
        entries[entry.stem] = entry
    by_digest = {entry.digest: entry.stem for entry in entries.values()}

    def batches(name: str) -> tuple[tuple[str, ...], ...]:
        digests = fields.items(name)
        if not all(
            isinstance(batch, list) and batch and all(isinstance(d, str) for d in batch)
            for batch in digests
        ):
            raise fields.wrong(name, "a list of batches of pictures")
        if not by_digest.keys() >= {digest for batch in digests for digest in batch}:
            raise fields.wrong(name, "batches of its pictures")
        return tuple(tuple(by_digest[digest] for digest in batch) for batch in digests)

    def used_for(use: str) -> tuple[str, ...]:
        return tuple(entry.stem for entry in entries.values() if entry.use == use)

    certificate = Certificate(
        file,
        RunnerDescription.from_fields(fields.child("reference")),
        ModelSpec.from_json(fields.text("spec")),
        fields.text("source"),
        entries,
        used_for(_PICTURE),
        used_for(_ODD_SIZE),
        batches("batches"),
        batches("streamed"),
    )
    _require_whole(certificate)
    return certificate


def _require_whole(certificate: Certificate) -> None:
    """Refuse a certificate that proves less than `bundle` writes."""
    whole = bool(certificate._pictures and certificate._streamed)
    if certificate.spec.input_shape.takes_all:
        whole &= bool(certificate._odd_sizes and certificate._batches)
    if not whole or not certificate.reference.is_float32:
        raise BundleError(
            f"{certificate.file} is damaged: pictures, odd sizes, batches or their stream are "
            "missing, or its reference is not float32",
            _REPAIR,
        )
