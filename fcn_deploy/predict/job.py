"""PredictJob: pictures → masks with a journal, so that the work can be stopped and shared out.

    sources ──select──▶ what is left ──engine──▶ mask on disk ──▶ line in the journal

A picture is finished when its mask has its name and its line stands in the journal.  The line comes
right behind the mask.  A kill between the two leaves a whole mask
without a line: the next run takes it over and writes the line, instead of computing it again.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import numpy as np

from fcn_deploy.core.errors import ImageError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.data.images import decoded
from fcn_deploy.predict.batches import MaskNames
from fcn_deploy.predict.engine import (
    Engine,
    LocalEngine,
    Outcome,
    Work,
    line_values,
    map_values,
)
from fcn_deploy.predict.folder import Prediction
from fcn_deploy.predict.geotiff import read_mask_of_map
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.predict.maps import MapOptions
from fcn_deploy.predict.masks_on_disk import existing_masks
from fcn_deploy.predict.selection import OVERLAY_FOLDER, is_mask_of_map, select
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.sources import Sources
from fcn_deploy.predict.stream import FiniteCheck
from fcn_deploy.runners.base import Runner


def journal_head(runner: Runner | Engine, with_overlay: bool, reading: str = "") -> JournalHead:
    """Return what the journal of a run says of the run's model."""
    description = runner.describe()
    return JournalHead(
        digest=description.digest,
        precision=description.precision,
        backend=description.backend,
        overlay=with_overlay,
        classes=tuple(runner.spec.class_names),
        reading=reading,
    )


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
        reading: options by which the masks are others, for the journal.

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

    #: What it does, in a word.
    what = "picture"

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
        reading: str = "",
    ) -> None:
        self._out = out
        self._with_overlay, self._reading = with_overlay, reading
        self.taken_over = 0
        self.journal = Journal(out, shard, resume=resume)
        try:
            names = MaskNames(sources.shared_folder() if full_names else None, maps=True)
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
                unlisted = self.selection.unlisted(self._existing)
                self.journal.require_free([mask for _, mask, _ in unlisted])
        except BaseException:
            self.journal.close()
            raise

    @property
    def has_maps(self) -> bool:
        """Whether a map is left to do, which needs rasterio."""
        return any(map(is_mask_of_map, self.selection.masks))

    def begin(self, runner: Runner | Engine) -> None:
        """Open the journal for this run's model, and take over masks that have no line yet.

        Raises:
            InputError: the masks of the folder are of another model.
            ArtifactError: the folder cannot be written.
        """
        head = journal_head(runner, self._with_overlay, self._reading)
        self.journal.begin(head, self.selection.redone)
        if (begun := self.journal.begun_ns) is not None:
            self._take_over(runner.spec, begun)

    def _take_over(self, spec: ModelSpec, begun_ns: int) -> None:
        """Write the lines of masks that this journal's runs have written without."""
        taken: set[int] = set()
        for place, _, key in self.selection.unlisted(self._existing):
            if (outcome := self._found(place, spec, begun_ns)) is not None:
                self.journal.append(line_of(key, outcome.state, outcome.values))
                taken.add(place)
        self.selection.keep(lambda place: place not in taken)
        self.taken_over = len(taken)

    def _found(self, place: int, spec: ModelSpec, since_ns: int) -> Outcome | None:
        """Return the outcome of a picture whose mask was written since then, or None."""
        item, mask = self.selection.items[place], self.selection.masks[place]
        with suppress(OSError, ImageError):  # picture or mask is gone: it is done again
            state = item.state()
            written = (self._out / mask).stat().st_mtime_ns
            if written < since_ns or item.modified_ns() > written:
                return None
            if is_mask_of_map(mask):
                found = read_mask_of_map(self._out / mask)
                return Outcome(place, state, map_values(item, mask, found, spec.class_names))
            if self._with_overlay and not (self._out / OVERLAY_FOLDER / mask).exists():
                return None
            with decoded(self._out / mask) as image:
                pixels = np.asarray(image)
            return Outcome(place, state, line_values(item, mask, pixels, None, spec.class_names))
        return None

    def predictions(
        self,
        runner: Runner,
        *,
        batch_size: int = 1,
        has_finite_logits: FiniteCheck = lambda image: True,
        maps: MapOptions | None = None,
    ) -> Generator[Prediction, None, None]:
        """Do what is left by a runner, and yield each picture, in the order of the pictures.

        The arguments are those of :class:`fcn_deploy.predict.engine.LocalEngine`.

        Raises:
            ArtifactError: a mask or the journal cannot be written.
        """
        yield from self.predictions_by(LocalEngine(runner, batch_size, has_finite_logits, maps))

    def predictions_by(self, engine: Engine) -> Generator[Prediction, None, None]:
        """Do what is left by the engine that :meth:`begin` was called with."""
        items, masks = self.selection.items, self.selection.masks
        work = Work(items, masks, self._out, self.journal.unfinished, self._with_overlay)

        def record(outcome: Outcome) -> None:
            key = key_of(items[outcome.place].name, masks[outcome.place])
            self.journal.append(line_of(key, outcome.state, outcome.values))

        def found(place: int) -> Outcome | None:
            return self._found(place, engine.spec, self.journal.opened_ns)

        with closing(engine.outcomes(work, record, found)) as outcomes:
            for outcome in outcomes:
                place, error = outcome.place, outcome.error
                mask = None if error is not None else self._out / masks[place]
                yield Prediction(items[place].path, mask, error)

    def __exit__(self, *error: object) -> None:
        self.journal.close()
