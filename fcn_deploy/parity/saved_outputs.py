"""What one runner gave, saved to be compared on another machine.

    runner ──record──▶ FILE.json + FILE-xxxxxxxx/*.npz ──▶ parity/recording.py reads them back

So a comparison of two recordings is the same algorithm as one of two live runners.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.files import atomic_path, json_bytes, read_json, write_bytes
from fcn_deploy.data.dataset import NamedImage, Sample
from fcn_deploy.data.images import image_digest
from fcn_deploy.parity.candidate import Batch, Candidate, passing_over_too_large
from fcn_deploy.parity.inputs import FIRST_PICTURES, STREAM_LENGTH, Extras, Pictures, within_memory
from fcn_deploy.parity.recording import FLAG, OUTPUTS_SCHEMA
from fcn_deploy.parity.stream import run_and_stream
from fcn_deploy.results.environment import result_header


def record(
    candidate: Candidate,
    pictures: Pictures,
    target: Path,
    *,
    on_picture: Callable[[], None] = lambda: None,
) -> float:
    """Ask a runner everything that a comparison asks, and save its answers.

    The JSON appears last, so it never names a file that is not whole.  The folder has a name of
    its own each time; that of an older recording of the same name goes when the new one is whole.

    Args:
        candidate: with a runner opened for ``mask`` and ``logits``; the reference is recorded by
            the same.
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
        answers = _Answers(candidate, folder)
        first: list[NamedImage] = []
        for picture in pictures:
            answers.save(picture, "picture")
            if len(first) < FIRST_PICTURES:
                first.append(picture)
            on_picture()
        if not first:
            raise InputError("no pictures to record", "name a folder of pictures with --images")
        answers.save_extras(pictures.extras(first).taken_by(candidate.runner.spec.input_shape))
        document = {
            **result_header("outputs", OUTPUTS_SCHEMA),
            "runner": candidate.runner.describe().to_json(),
            "spec": candidate.runner.spec.to_json(),
            "source": pictures.source,
            "pictures": answers.entries,
            "batches": answers.batches,
            "stream": answers.stream,
            "refused": max(0, STREAM_LENGTH - len(answers.stream)),
        }
        content = json_bytes(document)
        write_bytes(target, content, flags=FLAG)
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
    """The files of a recording while it grows.

    Attributes:
        entries: of each picture, by itself.
        batches: of each batch, run in one go.
        stream: of each batch of the stream, in its order.
        written: bytes.
    """

    def __init__(self, candidate: Candidate, folder: Path) -> None:
        self._candidate, self._folder = candidate, folder
        self._file_of: dict[str, str] = {}
        self.entries: list[dict[str, Any]] = []
        self.batches: list[dict[str, Any]] = []
        self.stream: list[dict[str, Any]] = []
        self.written = 0

    def save(self, picture: NamedImage, use: str, *, remember: bool = False) -> None:
        """Save one picture with its answer."""
        digest = image_digest(picture.image)
        masks, logits = self._candidate.run((picture,), remember=remember)
        if digest not in self._file_of:
            arrays = {"image": picture.image, "mask": masks[0], "logits": logits[0]}
            if isinstance(picture, Sample):
                arrays["truth"] = picture.mask
            self._file_of[digest] = self._write(f"{len(self._file_of):05}.npz", arrays)
        entry = {"name": picture.name, "use": use, "file": self._file_of[digest], "digest": digest}
        self.entries.append(entry)

    def save_extras(self, extras: Extras) -> None:
        """Save what is asked beyond the pictures; left out is what an engine does not take."""
        for picture in extras.odd_sizes:
            self.save(picture, "odd size", remember=True)
        candidate, large, with_large = self._candidate, extras.large, False
        if large is not None and within_memory(large, candidate.runner.spec):
            with passing_over_too_large():
                self.save(large, "large", remember=True)
                with_large = True
        for batch in extras.batches[:1]:
            self._save_together(batch)
        for batch in extras.batches[1:]:
            with passing_over_too_large():
                self._save_together(batch)
        streamed, expected, given = run_and_stream(candidate, extras.stream(with_large=with_large))
        known = {entry["digest"] for entry in self.entries}
        for pictures, mask, found in zip(streamed, expected, given, strict=True):
            for picture in pictures:
                # What was asked before needs no second answer; its place in the stream names it.
                if image_digest(picture.image) not in known:
                    self.save(picture, "stream")
            self._save_batch(self.stream, "stream", pictures, mask=mask, streamed=found)

    def _save_together(self, batch: Batch) -> None:
        masks, logits = self._candidate.run(batch, remember=True)
        for picture in batch:
            self.save(picture, "batch", remember=True)
        self._save_batch(self.batches, "batch", batch, mask=masks, logits=logits)

    def _save_batch(
        self, entries: list[dict[str, Any]], name: str, batch: Batch, **arrays: NDArray[Any]
    ) -> None:
        places = [image_digest(picture.image) for picture in batch]
        file = self._write(f"{name}-{len(entries):02}.npz", arrays)
        entries.append({"places": places, "file": file})

    def _write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        path = self._folder / name
        with atomic_path(path, flags=FLAG) as temporary:
            np.savez(temporary, **dict[str, Any](arrays))  # logits hardly compress
            self.written += temporary.stat().st_size
        return f"{self._folder.name}/{name}"
