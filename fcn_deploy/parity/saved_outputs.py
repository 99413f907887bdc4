"""What one runner gave, saved to be compared on another machine.

    runner ──record──▶ FILE.json + FILE-xxxxxxxx/*.npz ──read_recording──▶ Recording
                                                             ├─ pictures(): Pictures
                                                             └─ runner(): Runner that answers
                                                                from the file, and only that

So a comparison of two recordings is the same algorithm as one of two live runners.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.files import atomic_path, json_bytes, read_json, write_bytes
from fcn_deploy.core.spec import ModelSpec, Precision
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.images import image_digest
from fcn_deploy.parity.inputs import ODD_SIZES, Extras, Pictures
from fcn_deploy.results.environment import result_header
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.runners.base import Outputs, Runner

OUTPUTS_SCHEMA = 3
_FLAG = "--save-outputs"
_REPAIR = f"record it again with `fcn-deploy parity … {_FLAG}`, and copy its folder along"
#: What a picture is recorded for: given by the user, made at an odd size, made for the batch.
USES = ("picture", "odd size", "batch")


def record(
    runner: Runner,
    pictures: Pictures,
    target: Path,
    *,
    on_picture: Callable[[], None] = lambda: None,
) -> float:
    """Ask a runner everything that a comparison asks, and save its answers.

    The JSON appears last, so it never names a file that is not whole.  The folder has a name of
    its own each time; that of an older recording of the same name goes when the new one is whole.

    Args:
        runner: opened for ``mask`` and ``logits``.
        pictures: see :func:`fcn_deploy.parity.compare`.
        target: the JSON file.
        on_picture: called after each picture.

    Returns:
        MiB written.

    Raises:
        InputError: there are no pictures, or the runner gives no logits.
        ArtifactError: the place cannot be written; what was there before stays.
    """
    older = _folder_of(target)
    folder = target.parent / f"{target.stem}-{secrets.token_hex(4)}"
    try:
        answers = _Answers(runner, folder)
        first: list[NamedImage] = []
        for picture in pictures:
            answers.save(picture, "picture")
            if len(first) < len(ODD_SIZES):
                first.append(picture)
            on_picture()
        if not first:
            raise InputError("no pictures to record", "name a folder of pictures with --images")
        extras = pictures.extras(first)
        for picture in extras.odd_sizes:
            answers.save(picture, "odd size")
        document = {
            **result_header("outputs", OUTPUTS_SCHEMA),
            "runner": runner.describe().to_json(),
            "spec": runner.spec.to_json(),
            "source": pictures.source,
            "batch": answers.save_batch(extras.batch),
            "pictures": answers.entries,
        }
        content = json_bytes(document)
        write_bytes(target, content, flags=_FLAG)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if older is not None:
        shutil.rmtree(older, ignore_errors=True)
    return (answers.written + len(content)) / 2**20


def _folder_of(target: Path) -> Path | None:
    """Return the folder of the recording that stands at ``target``, if one of ours does."""
    try:
        entries = read_json(target, "")["pictures"]
        name = Path(entries[0]["file"]).parts[0]
    except (ArtifactError, KeyError, IndexError, TypeError):
        return None
    folder = target.parent / name
    # It is deleted later: nothing but a folder that `record` itself named may be.
    ours = re.fullmatch(re.escape(target.stem) + r"-[0-9a-f]{8}", name)
    return folder if ours and folder.is_dir() and not folder.is_symlink() else None


class _Answers:
    """The files of a recording while it grows."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self._runner, self._folder = runner, folder
        self._file_of: dict[str, str] = {}
        self.entries: list[dict[str, Any]] = []
        self.written = 0

    def save(self, picture: NamedImage, use: str) -> NDArray[np.uint8]:
        """Save one picture with its answer; return its mask, uint8 [H, W]."""
        found = self._runner.run(picture.image[None])
        if found.logits is None:
            raise InputError("a recording needs a runner that gives logits", "open it with them")
        digest = image_digest(picture.image)
        if digest not in self._file_of:
            arrays = {"image": picture.image, "mask": found.mask[0], "logits": found.logits[0]}
            if isinstance(picture, Sample):
                arrays["truth"] = picture.mask
            self._file_of[digest] = self._write(f"{len(self._file_of):05}.npz", arrays)
        entry = {"name": picture.name, "use": use, "file": self._file_of[digest], "digest": digest}
        self.entries.append(entry)
        mask: NDArray[np.uint8] = found.mask[0]
        return mask

    def save_batch(self, batch: Sequence[NamedImage]) -> dict[str, Any]:
        alone = np.stack([self.save(picture, "batch") for picture in batch])
        together = self._runner.run(np.stack([picture.image for picture in batch])).mask
        return {
            "pictures": len(batch),
            "flips": int((alone != together).sum()),
            "places": [image_digest(picture.image) for picture in batch],
            "file": self._write("batch.npz", {"mask": together}),
        }

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        path = self._folder / name
        with atomic_path(path, flags=_FLAG) as temporary:
            np.savez(temporary, **dict[str, Any](arrays))  # logits hardly compress
            self.written += temporary.stat().st_size
        return f"{self._folder.name}/{name}"


@dataclass(frozen=True)
class _Entry:
    name: str
    use: str
    file: Path
    digest: str


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
    _places: tuple[str, ...]
    _batch_file: Path

    def runner(self) -> Runner:
        """Return a runner that answers from the files, and only what was recorded."""
        return RecordedRunner(self)

    def pictures(self) -> Pictures:
        """Return the pictures themselves, pixel by pixel what the runner was given."""
        given, odd, _ = (self._used_for(use) for use in USES)
        by_digest = {entry.digest: entry for entry in self._entries}
        return Pictures(
            self.source,
            len(given),
            lambda index: self._picture(given[index]),
            lambda _first: Extras(
                tuple(self._picture(entry) for entry in odd),
                tuple(self._picture(by_digest[digest]) for digest in self._places),
            ),
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
        count, *size, _ = images.shape
        digests = tuple(image_digest(image) for image in images)
        if count > 1 and digests == self._places:
            arrays = self._arrays(self._batch_file)
            return Outputs(self._mask(arrays, self._batch_file, (count, *size)))
        entry = next((e for e in self._entries if (e.digest,) == digests), None)
        if entry is None:
            raise InputError(f"{self.path} holds no answer to these pictures", _REPAIR)
        arrays = self._arrays(entry.file)
        mask = self._mask(arrays, entry.file, tuple(size))
        channels = (self.spec.num_classes, *size)
        logits = self._array(arrays, entry.file, "logits", np.float32, channels)
        return Outputs(mask[None], logits[None])

    def _mask(
        self, arrays: Mapping[str, NDArray[Any]], file: Path, shape: tuple[int, ...]
    ) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = self._array(arrays, file, "mask", np.uint8, shape)
        if int(mask.max()) >= self.spec.num_classes:
            raise ArtifactError(f"{file} is damaged: mask holds an unknown class", _REPAIR)
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


def read_recording(path: Path) -> Recording:
    """Read what :func:`record` wrote.

    Raises:
        MissingStageError: there is no such file.
        ArtifactError: it is damaged, no recording, of another schema, or names files elsewhere.
    """
    fields = Fields(read_json(path, _REPAIR), path, _REPAIR)
    if fields.values.get("kind") != "outputs":
        raise ArtifactError(f"{path} holds no saved outputs", f"make some with {_FLAG}")
    schema = fields.values.get("schema")
    if schema != OUTPUTS_SCHEMA:
        raise ArtifactError(
            f"{path} has schema {schema}, this version reads {OUTPUTS_SCHEMA}", _REPAIR
        )
    entries = tuple(
        _Entry(entry.text("name"), entry.text("use"), _inside(entry, "file"), entry.text("digest"))
        for entry in fields.children("pictures")
    )
    batch, runner = fields.child("batch"), fields.child("runner")
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
        _places=batch.texts("places"),
        _batch_file=_inside(batch, "file"),
    )
    # A comparison that asks less than a live one would be a weaker gate.
    uses = [entry.use for entry in entries]
    if "picture" not in uses or uses.count("odd size") != len(ODD_SIZES):
        raise ArtifactError(f"{path} is damaged: pictures or odd sizes are missing", _REPAIR)
    known = {entry.digest for entry in entries}
    if len(recording._places) < 2 or not known.issuperset(recording._places):
        raise ArtifactError(f"{path} is damaged: its batch names no pictures of its own", _REPAIR)
    return recording


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
        missing = next((entry for entry in one._entries if entry.digest not in known), None)
        if missing is not None:
            raise InputError(
                f"picture {missing.name} of {one.path} is not in {other.path}",
                "record both with the same pictures, the same --limit and the same Pillow",
            )
    if reference._places != candidate._places:
        raise InputError(
            f"{reference.path} and {candidate.path} tried different batches",
            "record both with the same version of fcn-deploy",
        )
