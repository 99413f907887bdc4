"""PredictJob: pictures → masks with a journal, so that the work can be stopped and shared out.

    sources ──select──▶ what is left ──segment──▶ mask on disk ──▶ line in the journal

A picture is finished when its mask has its name and its line stands in the journal.  The line comes
right behind the mask, from the thread that wrote it.  A kill between the two leaves a whole mask
without a line: the next run takes it over and writes the line, instead of computing it again.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.images import decoded
from fcn_deploy.predict.batches import MaskNames
from fcn_deploy.predict.folder import Prediction
from fcn_deploy.predict.items import Before, Item
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.predict.masks_on_disk import MasksOnDisk, existing_masks
from fcn_deploy.predict.selection import OVERLAY_FOLDER, select
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.sources import Sources
from fcn_deploy.predict.stream import Failed, FiniteCheck, Segmented, segment
from fcn_deploy.runners.base import Runner


class PredictJob(AbstractContextManager["PredictJob"]):
    """What one run of ``predict`` has to do.

    Args:
        sources: the pictures.
        out: the folder of the masks and of the journal.
        full_names: name masks after suffix and folders as well; see
            :mod:`fcn_deploy.predict.selection`.
        with_overlay: also write each mask blended over its picture.
        shard: the part of the pictures that this run does; None: all.
        resume: leave what the journal lists as finished.
        check_all: look for the masks of all finished pictures, and ask these whether they have
            changed, however many there are; else of up to a million.

    Attributes:
        journal: of this run; other runs are kept from it until the job is closed.
        selection: what is left to do.
        taken_over: how many masks were there whose lines a kill had prevented.

    Raises:
        InputError: two pictures would have one mask, also one of a run that is resumed and one of
            this, a file that is none of ours would be replaced, or another run is at work; nothing
            has been written then.
        ArtifactError: a journal cannot be read.
        ImageError: see :class:`fcn_deploy.predict.sources.Sources`.
    """

    def __init__(
        self,
        sources: Sources,
        out: Path,
        *,
        full_names: bool = False,
        with_overlay: bool = False,
        shard: Shard | None = None,
        resume: bool = False,
        check_all: bool = False,
    ) -> None:
        self._out = out
        self._with_overlay = with_overlay
        self.taken_over = 0
        self.journal = Journal(out, shard, resume=resume)
        try:
            names = MaskNames(sources.shared_folder() if full_names else None)
            self.selection = select(
                sources.batches,
                names,
                out,
                shard=shard,
                finished=self.journal.finished,
                check_all=check_all,
            )
            self._existing = existing_masks(out, self.selection.masks, with_overlay=with_overlay)
            if resume:
                self.journal.require_free([mask for _, mask, _ in self._unlisted()])
        except BaseException:
            self.journal.close()
            raise

    @property
    def finished_before(self) -> int:
        """How many pictures need not be done again."""
        return self.selection.total - len(self.selection.items)

    def begin(self, runner: Runner) -> None:
        """Open the journal for this run's model, and take over masks that have no line yet.

        Raises:
            InputError: the masks of the folder are of another model.
            ArtifactError: the folder cannot be written.
        """
        description = runner.describe()
        head = JournalHead(
            digest=description.digest,
            precision=description.precision,
            backend=description.backend,
            overlay=self._with_overlay,
            classes=tuple(runner.spec.class_names),
        )
        self.journal.begin(head, self.selection.redone)
        if (begun := self.journal.begun_ns) is not None:
            self._take_over(head.classes, begun)

    def _unlisted(self) -> Iterator[tuple[int, str, bytes]]:
        """Yield places, masks and keys of the pictures that have a mask and no line."""
        listed = set(self.selection.redone.tolist())
        for place in self._existing:
            mask = self.selection.masks[place]
            key = key_of(self.selection.items[place].name, mask)
            if int.from_bytes(key, "big") not in listed:
                yield place, mask, key

    def _take_over(self, classes: tuple[str, ...], begun_ns: int) -> None:
        """Write the lines of masks that this journal's runs have written without."""
        taken: set[int] = set()
        for place, mask, key in self._unlisted():
            item = self.selection.items[place]
            with suppress(OSError, ImageError):  # picture or mask is gone: it is done again
                state = item.state()
                found = self._up_to_date(item, mask, begun_ns)
                if found is not None:
                    values = _done(item, mask, found, None, classes)
                    self.journal.append(line_of(key, state, values))
                    taken.add(place)
        self.selection.keep(lambda place: place not in taken)
        self.taken_over = len(taken)

    def _up_to_date(self, item: Item, mask: str, begun_ns: int) -> NDArray[np.uint8] | None:
        """Return a mask that was written since the journal was begun, from the picture as it is."""
        path = self._out / mask
        written = path.stat().st_mtime_ns
        if written < begun_ns or item.modified_ns() > written:
            return None
        if self._with_overlay and not (self._out / OVERLAY_FOLDER / mask).exists():
            return None
        with decoded(path) as image:
            return np.asarray(image)

    def predictions(
        self,
        runner: Runner,
        *,
        batch_size: int = 1,
        has_finite_logits: FiniteCheck = lambda image: True,
    ) -> Generator[Prediction, None, None]:
        """Do what is left, and yield each picture as it is finished, in the order of the pictures.

        Args:
            runner: that :meth:`begin` was called with.
            batch_size: most pictures to segment at once; those of a batch are of one size.
            has_finite_logits: see :func:`fcn_deploy.predict.folder.predict`.

        Raises:
            ArtifactError: a mask or the journal cannot be written.
        """
        items, masks = self.selection.items, self.selection.masks
        classes = tuple(runner.spec.class_names)
        sink = MasksOnDisk(self._out, masks, runner.spec.palette, self.journal.unfinished)
        states: dict[int, int] = {}

        def write(answer: Segmented | Failed) -> Prediction:
            item, mask = items[answer.place], masks[answer.place]
            key, state = key_of(item.name, mask), states.pop(answer.place, 0)
            written = sink.write_or_fail(answer)
            if isinstance(written, Failed):
                self.journal.append(line_of(key, 0, _failed(item, written.error)))
                return Prediction(item.path, None, written.error)
            assert isinstance(answer, Segmented)
            values = _done(item, mask, answer.mask, answer.seconds, classes)
            if answer.uncertainty is not None:
                values["uncertainty"] = answer.uncertainty
            self.journal.append(line_of(key, state, values))
            return Prediction(item.path, written)

        yield from segment(
            runner,
            (_Reading(item, place, states) for place, item in enumerate(items)),
            write,
            keep_images=self._with_overlay,
            batch_size=batch_size,
            has_finite_logits=has_finite_logits,
        )

    def __exit__(self, *error: object) -> None:
        self.journal.close()


class _Reading:
    """A picture to be read: its state is noted before that, so that no change is missed."""

    __slots__ = ("_item", "_place", "_states")

    def __init__(self, item: Item, place: int, states: dict[int, int]) -> None:
        self._item = item
        self._place = place
        self._states = states

    def read(self, before: Before) -> NDArray[np.uint8]:
        with suppress(OSError):  # reading it says what is wrong
            self._states[self._place] = self._item.state()
        return self._item.read(before)


def _done(
    item: Item,
    mask: str,
    classes_of_pixels: NDArray[np.uint8],
    seconds: float | None,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    return {
        "source": item.name,
        "mask": mask,
        "size": list(classes_of_pixels.shape),
        "ms": None if seconds is None else round(1e3 * seconds, 1),
        "shares": class_shares(classes_of_pixels, classes),
        "error": None,
    }


def _failed(item: Item, error: Exception) -> dict[str, Any]:
    return {
        "source": item.name, "mask": None, "size": None, "ms": None, "shares": None,
        "error": str(error),
    }  # fmt: skip


def class_shares(mask: NDArray[np.uint8], classes: tuple[str, ...]) -> dict[str, float]:
    """Return the share of the pixels of each class that is in a mask, by its name."""
    # Areas are counted, not pixels: of masks that takes a third of the time.
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    counts = np.bincount(flat[ends - 1], weights=np.diff(ends, prepend=0))
    return {
        name: round(count / mask.size, 6)
        for name, count in zip(classes, counts.tolist(), strict=False)
        if count
    }
