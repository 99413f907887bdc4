"""FilmJob: films → films of masks, with the journal that pictures have.

    film ──decode (a thread)──▶ frames ──segment──▶ masks ──encode (a thread)──▶ film of masks
    live source ──the newest frame alone──▶ network ──▶ masks ──encode (a thread)──▶ …

One that was not finished, masks and line, is begun anew.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fcn_deploy.core.errors import FcnDeployError, ImageError
from fcn_deploy.data.pipeline import loaded_ahead, lookahead, picture_threads, written_behind
from fcn_deploy.predict.batches import ItemBatch
from fcn_deploy.predict.items import Item
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.predict.selection import select
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.stream import (
    Failed,
    FiniteCheck,
    PredictionError,
    Segmented,
    not_finite,
    segment,
)
from fcn_deploy.predict.video.decode import Film, Frame
from fcn_deploy.predict.video.live import LiveLimits, newest_frames
from fcn_deploy.predict.video.names import FilmItem, FilmNames, LiveItem
from fcn_deploy.predict.video.outputs import FilmOutputs, FilmPlaces, Prepared
from fcn_deploy.runners.base import Runner


@dataclass(frozen=True)
class FilmPrediction:
    """What became of a film: its masks, or why there are none, or not all (``error``)."""

    source: str
    masks: Path | None
    frames: int = 0
    broken: int = 0
    dropped: int = 0
    error: str | None = None


class FilmJob(AbstractContextManager["FilmJob"]):
    """What one run has to do of some films, or of one live source.

    The arguments are those of :class:`fcn_deploy.predict.job.PredictJob`, and ``as_frames``: write
    a PNG for each frame, in a folder for each film; ``limits``: when a live source ends.

    Raises:
        InputError, ArtifactError: as for pictures; nothing has been written then.
    """

    taken_over = 0
    #: What it does, in a word.
    what = "film"

    def __init__(
        self,
        films: Sequence[FilmItem | LiveItem],
        out: Path,
        *,
        as_frames: bool = False,
        full_names: bool = False,
        with_overlay: bool = False,
        shard: Shard | None = None,
        resume: bool = False,
        limits: LiveLimits | None = None,
    ) -> None:
        self._out = out
        self._with_overlay = with_overlay
        self._limits = limits or LiveLimits()
        self.journal = Journal(out, shard, resume=resume)
        try:
            self.selection = select(
                lambda: [ItemBatch(films)],
                FilmNames(films, as_frames=as_frames, full_names=full_names),
                out,
                shard=shard,
                finished=self.journal.finished,
            )
            for mask in self.selection.masks:
                FilmPlaces.of(out, mask).require_ours()
            if resume:
                self.journal.require_free(self._unlisted())
        except BaseException:
            self.journal.close()
            raise

    def _unlisted(self) -> list[str]:
        """Return the masks that are there of films that have no line."""
        listed = set(self.selection.redone.tolist())
        return [
            mask
            for item, mask in zip(self.selection.items, self.selection.masks, strict=True)
            if (self._out / mask).exists()
            and int.from_bytes(key_of(item.name, mask), "big") not in listed
        ]

    @property
    def finished_before(self) -> int:
        """How many films need not be done again."""
        return self.selection.total - len(self.selection.items)

    def expected_frames(self) -> int | None:
        """Return about how many frames there are to do, or None where that is not known."""
        total = 0
        for item in self.selection.items:
            if not isinstance(item, FilmItem):
                return None
            with suppress(ImageError), Film(item.address, item.name) as film:
                if film.expected is None:
                    return None
                total += film.expected
        return total

    def begin(self, runner: Runner) -> None:
        """Open the journal for this run's model; see ``PredictJob``."""
        description = runner.describe()
        self._head = JournalHead(
            digest=description.digest,
            precision=description.precision,
            backend=description.backend,
            overlay=self._with_overlay,
            classes=tuple(runner.spec.class_names),
        )
        self.journal.begin(self._head, self.selection.redone)

    def predictions(
        self,
        runner: Runner,
        batch_size: int = 1,
        has_finite_logits: FiniteCheck = lambda image: True,
        step: Callable[[], None] = lambda: None,
    ) -> Generator[FilmPrediction, None, None]:
        """Do what is left, and yield each film as it is finished; call ``step`` for each frame.

        Raises:
            ArtifactError: masks or the journal cannot be written.
        """
        work = _Work(runner, batch_size, has_finite_logits, self._with_overlay, self._limits)
        for number, (item, mask) in enumerate(
            zip(self.selection.items, self.selection.masks, strict=True)
        ):
            assert isinstance(item, FilmItem | LiveItem)
            places = FilmPlaces.of(self._out, mask)
            key, begun = key_of(item.name, mask), time.perf_counter()
            try:
                state = item.state()
                done, size, shares = self._one(item, places, number, work, step)
            except (ImageError, OSError) as error:
                if not isinstance(item, LiveItem):
                    places.remove()
                self.journal.append(line_of(key, 0, _values(item, None, error=str(error))))
                yield FilmPrediction(item.name, None, error=str(error))
                continue
            values = _values(
                item, mask, size=list(size), ms=round(1e3 * (time.perf_counter() - begun), 1),
                shares=shares, error=done.error, frames=done.frames, broken=done.broken,
            )  # fmt: skip
            if isinstance(item, LiveItem):
                values["dropped"] = done.dropped
            self.journal.append(line_of(key, state, values))
            yield done

    def _one(
        self,
        item: FilmItem | LiveItem,
        places: FilmPlaces,
        number: int,
        work: _Work,
        step: Callable[[], None],
    ) -> tuple[FilmPrediction, tuple[int, int], dict[str, float]]:
        live = isinstance(item, LiveItem)
        with Film(item.address, item.name, form=item.format, live=live) as film:
            outputs = FilmOutputs(
                film,
                self.journal.unfinished / str(number),
                places,
                self._head.classes,
                work.runner.spec.palette,
                with_overlay=self._with_overlay,
            )
            try:
                dropped = [0]
                frames = work.live(film, outputs, dropped) if live else work.film(film, outputs)
                with closing(frames):  # threads have ended before anything is abandoned
                    for _ in frames:
                        step()
                outputs.finish()
            except BaseException:
                outputs.abandon()
                raise
        assert outputs.size is not None
        done = FilmPrediction(
            item.name, places.masks, outputs.masks, outputs.broken, dropped[0], film.ended_early
        )
        return done, outputs.size, outputs.shares()

    def __exit__(self, *error: object) -> None:
        self.journal.close()


def _values(item: Item, mask: str | None, **values: Any) -> dict[str, Any]:
    told = ("size", "ms", "shares", "error", "frames", "broken")
    return {"source": item.name, "mask": mask, **{name: values.get(name) for name in told}}


@dataclass(frozen=True, eq=False)
class _Work:
    """How the frames of a film become masks."""

    runner: Runner
    batch_size: int
    has_finite_logits: FiniteCheck
    keep_images: bool
    limits: LiveLimits

    def film(self, film: Film, outputs: FilmOutputs) -> Generator[Prepared, None, None]:
        """Segment each frame of a film, and write them in their order."""
        reading: dict[int, Frame] = {}

        def noted(frames: Iterable[Frame]) -> Iterator[Frame]:
            for frame in frames:
                reading[frame.number] = frame
                yield frame

        def prepare(answer: Segmented | Failed) -> Prepared:
            return outputs.prepare(reading.pop(answer.place), answer)

        ahead = lookahead(self.batch_size)
        with picture_threads(1) as decoder, picture_threads(1) as encoder:
            prepared = segment(
                self.runner,
                noted(_decoded(film.frames(), decoder, ahead)),
                prepare,
                keep_images=self.keep_images,
                batch_size=self.batch_size,
                has_finite_logits=self.has_finite_logits,
            )
            with closing(cast("Generator[Prepared, None, None]", prepared)):
                yield from written_behind(prepared, outputs.add, encoder, ahead, Prepared.nbytes)

    def live(
        self, film: Film, outputs: FilmOutputs, dropped: list[int]
    ) -> Generator[Prepared, None, None]:
        """Segment whatever frame is the newest when the network is free."""

        def write(pair: tuple[Frame, Segmented | Failed]) -> Prepared:
            return outputs.add(outputs.prepare(*pair))

        with picture_threads(1) as encoder, newest_frames(film, self.limits) as (newest, frames):
            pairs = ((frame, self._now(frame)) for frame in frames)
            yield from written_behind(pairs, write, encoder, 2)
            dropped[0] = newest.dropped

    def _now(self, frame: Frame) -> Segmented | Failed:
        begun = time.perf_counter()
        try:
            image = frame.read()
            mask = self.runner.run(image[None]).mask[0]
        except FcnDeployError as error:
            if not isinstance(error, PredictionError):
                raise
            return Failed(frame.number, error)
        if not mask.any() and not self.has_finite_logits(image):
            return Failed(frame.number, not_finite())
        kept = image if self.keep_images else None
        return Segmented(frame.number, kept, mask, time.perf_counter() - begun)


def _decoded(frames: Iterator[Frame], decoder: Any, ahead: int) -> Iterator[Frame]:
    """Decode frames, in their order, on the one thread of a pool before they are asked for."""
    turns = itertools.repeat(frames)
    for frame in loaded_ahead(turns, lambda each, reserve: next(each, None), decoder, ahead):
        if frame is None:
            return
        yield frame
