"""FilmJob: films → films of masks, with the journal that pictures have.

    film ──decode (a thread)──▶ frames ──segment──▶ masks ──encode (a thread)──▶ film of masks
    live source ──the newest frame alone──▶ network ──▶ masks ──encode (a thread)──▶ …

One that was not finished, masks and line, is begun anew.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ImageError
from fcn_deploy.data.pipeline import loaded_ahead, lookahead, picture_threads, written_behind
from fcn_deploy.predict.batches import ItemBatch
from fcn_deploy.predict.job import journal_head
from fcn_deploy.predict.journal import Journal
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.predict.selection import select
from fcn_deploy.predict.shard import Shard
from fcn_deploy.predict.stream import Failed, FiniteCheck, Segmented, segment
from fcn_deploy.predict.video.decode import Film, Frame
from fcn_deploy.predict.video.live import LiveLimits, NewestFrames
from fcn_deploy.predict.video.names import FilmItem, FilmNames, LiveItem
from fcn_deploy.predict.video.outputs import Answered, FilmOutputs, FilmPlaces
from fcn_deploy.runners.base import Runner

#: What a film's line says where it has no masks.
_NOTHING = dict.fromkeys(("mask", "size", "ms", "shares", "error", "frames", "broken"))


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
            masks = self.selection.masks
            for mask in masks:
                FilmPlaces.of(out, mask).require_ours()
            if resume:
                existing = [n for n, mask in enumerate(masks) if os.path.lexists(out / mask)]
                unlisted = self.selection.unlisted(existing)
                self.journal.require_free([mask for _, mask, _ in unlisted])
        except BaseException:
            self.journal.close()
            raise

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
        self.journal.begin(journal_head(runner, self._with_overlay), self.selection.redone)

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
        network = _Network(runner, batch_size, has_finite_logits, self._with_overlay)
        for item, mask in zip(self.selection.items, self.selection.masks, strict=True):
            assert isinstance(item, FilmItem | LiveItem)
            places = FilmPlaces.of(self._out, mask)
            begun = time.perf_counter()
            try:
                state = item.state()
                values = self._one(item, places, network, step)
                values["mask"], values["ms"] = mask, round(1e3 * (time.perf_counter() - begun), 1)
                if values["error"] and not isinstance(item, LiveItem):
                    state = 0  # it ended early: the next run tries again
            except (ImageError, OSError) as error:
                if not isinstance(item, LiveItem):
                    places.remove()
                state, values = 0, {"error": str(error)}
            line = {"source": item.name, **_NOTHING, **values}
            self.journal.append(line_of(key_of(item.name, mask), state, line))
            yield FilmPrediction(
                item.name,
                places.masks if line["mask"] else None,
                line["frames"] or 0,
                line["broken"] or 0,
                line.get("dropped", 0),
                line["error"],
            )

    def _one(
        self,
        item: FilmItem | LiveItem,
        places: FilmPlaces,
        network: _Network,
        step: Callable[[], None],
    ) -> dict[str, Any]:
        """Write the results of a film, and return what its line says of them."""
        live = isinstance(item, LiveItem)
        told: dict[str, Any] = {}
        with Film(item.address, item.name, form=item.format, live=live) as film:
            folder, spec = self.journal.unfinished / "film", network.runner.spec
            outputs = FilmOutputs(film, folder, places, spec, with_overlay=self._with_overlay)
            try:
                if live:
                    with NewestFrames(film, self._limits) as newest:
                        network.segment_live(newest, outputs, step)
                    told["dropped"] = newest.dropped
                else:
                    network.segment_film(film, outputs, step)
                outputs.finish()
            except BaseException:
                outputs.abandon()
                raise
        return {**outputs.values(), "error": film.ended_early, **told}

    def __exit__(self, *error: object) -> None:
        self.journal.close()


@dataclass(frozen=True, eq=False)
class _Network:
    """How frames become masks."""

    runner: Runner
    batch_size: int
    has_finite_logits: FiniteCheck
    keep_images: bool

    def segment_film(self, film: Film, outputs: FilmOutputs, step: Callable[[], None]) -> None:
        """Segment each frame of a film, and write them in their order."""
        ahead = lookahead(self.batch_size)
        with (
            picture_threads(1) as decoder,
            picture_threads(1) as encoder,
            closing(
                self._answered(_decoded(film.frames(), decoder, ahead), outputs.prepare)
            ) as prepared,
        ):
            for _ in written_behind(prepared, outputs.write, encoder, self.batch_size + 2):
                step()

    def segment_live(
        self, newest: Iterable[Frame], outputs: FilmOutputs, step: Callable[[], None]
    ) -> None:
        """Segment whatever frame is the newest when the network is free."""

        def write(answered: Answered) -> None:
            outputs.write(outputs.prepare(*answered))

        with picture_threads(1) as encoder:
            answered = (
                each for frame in newest for each in self._answered([frame], lambda *pair: pair)
            )
            for _ in written_behind(answered, write, encoder, 2):
                step()

    def _answered(
        self, frames: Iterable[Frame], then: Callable[[Frame, Segmented | Failed], Answered]
    ) -> Generator[Answered, None, None]:
        """Segment frames; what is to be done then may be done on any thread."""
        reading: dict[int, Frame] = {}
        yield from segment(
            self.runner,
            (reading.setdefault(place, frame) for place, frame in enumerate(frames)),
            lambda answer: then(reading.pop(answer.place), answer),
            keep_images=self.keep_images,
            batch_size=self.batch_size,
            has_finite_logits=self.has_finite_logits,
        )


def _decoded(frames: Iterator[Frame], decoder: ThreadPoolExecutor, ahead: int) -> Iterator[Frame]:
    """Decode frames, in their order, on the one thread of a pool before they are asked for."""
    turns = itertools.repeat(frames)
    ahead_of_use = loaded_ahead(turns, lambda each, reserve: next(each, None), decoder, ahead)
    for frame in ahead_of_use:
        if frame is None:
            return
        yield frame
