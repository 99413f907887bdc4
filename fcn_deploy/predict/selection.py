"""Selection: of the pictures that were named, those that are this run's to do, and their masks.

    a.jpg, photos/b.jpg        → a.png, b.png                     the name without its suffix
    photos/, recursive         → cam1/a.png                       with the folders below it
    photos.zip                 → cam1/a.png                       with the folders in the archive
    full names                 → cam1/a.jpg.png, photos.zip/…     with suffix, and every folder
                                                                  below the one they share

No two pictures have one mask: that is checked over all of them, also those of other shards, before
anything is written.  Of a picture that is finished 16 bytes are kept, of one that is left its name.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.data.masks import written_by_us
from fcn_deploy.predict.batches import BATCH_SIZE, Batch, ItemBatch, MaskNames
from fcn_deploy.predict.items import Item, real_folder
from fcn_deploy.predict.journal_lines import Finished, Hashes, key_of, keys_of
from fcn_deploy.predict.shard import Shard

#: Overlays lie apart from the masks, so that the folder of masks is one.
OVERLAY_FOLDER = "overlays"
#: Masks of pictures, and of maps.
MASK_ENDINGS = (".png", ".tif")
#: Of up to so many pictures that a journal lists as finished the masks are looked for, and the
#: pictures asked whether they have changed: each takes a call of the file system, of which that of
#: a network answers some thousands a second.  Of more, the journal is believed.
CHECKED_UP_TO = 1_000_000
#: From so many finished pictures on their masks' folder is listed once, and not asked for each.
_LISTED_FROM = 100_000
_NO_KEYS: Hashes = np.zeros(0, np.uint64)


def is_mask_of_map(mask: str) -> bool:
    """Say whether a mask is that of a map, and not of a picture, by its path."""
    return mask.endswith(".tif")


@dataclass(eq=False)
class Selection:
    """The pictures that are left to do.

    Attributes:
        items: each once, as they were listed.
        masks: the path of each one's mask below the folder of the masks.
        total: how many pictures there are for this run, finished ones included.
        changed: those whose mask was of another state of the picture.
        lost: those whose mask is gone.
        failed: those that got no mask before.
        redone: keys of all that have a line in a journal and are done again.
        checked: whether finished masks were looked for, and their pictures asked for changes.
    """

    items: list[Item] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    total: int = 0
    changed: int = 0
    lost: int = 0
    failed: int = 0
    redone: Hashes = field(default_factory=_NO_KEYS.copy)
    checked: bool = True

    @property
    def finished_before(self) -> int:
        """How many need not be done again."""
        return self.total - len(self.items)

    def unlisted(self, existing: Iterable[int]) -> Iterator[tuple[int, str, bytes]]:
        """Yield place, mask and key of those that have a mask and no line in a journal."""
        listed = set(self.redone.tolist())
        for place in existing:
            mask = self.masks[place]
            key = key_of(self.items[place].name, mask)
            if int.from_bytes(key, "big") not in listed:
                yield place, mask, key

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Keep those whose place is wanted."""
        kept = [place for place in range(len(self.items)) if wanted(place)]
        self.items = [self.items[place] for place in kept]
        self.masks = [self.masks[place] for place in kept]


def select(
    list_pictures: Callable[[], Iterable[Batch]],
    names: MaskNames,
    out: Path,
    *,
    shard: Shard | None = None,
    finished: Finished | None = None,
    check_all: bool = False,
) -> Selection:
    """Choose what is left to do.

    Args:
        list_pictures: called once, and again where two pictures would have one mask.
        names: of the masks.
        out: the folder of the masks.
        shard: the part to do; None: all.
        finished: what journals hold; None: nothing.
        check_all: look for each finished mask, and ask its picture whether it has changed, however
            many there are.

    Raises:
        InputError: two pictures would have one mask, or a mask would replace a picture.
    """
    real_folder.cache_clear()  # links, and the current folder, may have changed
    found = Selection()
    places = array("q")  # of those left, among all
    identities, masks = array("q"), array("q")
    check = None
    if finished is not None and len(finished):
        found.checked = check_all or len(finished) <= CHECKED_UP_TO
        check = _Check(finished, _Existing(out, len(finished)) if found.checked else None)
    masks_folder = real_folder(str(out))

    def batches_of_pictures() -> Iterator[Batch]:
        return _without_masks(list_pictures(), masks_folder)

    for batches in _chunks(batches_of_pictures()):
        chunk = _Chunk(batches, names)
        begin = len(masks)
        # Hashes of Python's own are of this process alone, which is enough to find what is twice.
        identities.extend([hash(identity) for b in batches for identity in b.identities()])
        masks.extend(map(hash, chunk.masks))
        own: Sequence[int] = range(len(chunk.names))
        if shard is not None:
            own = np.flatnonzero(shard.which(chunk.names)).tolist()
        found.total += len(own)
        left = own if check is None else check.left(found, chunk, own)
        for at in left:
            found.items.append(chunk.item(at))
            found.masks.append(chunk.masks[at])
            places.append(begin + at)
    if check is not None:
        found.redone = np.concatenate([_NO_KEYS, *check.redone])
    repeated = _repeated(np.frombuffer(identities, np.int64))
    if repeated:
        found.total -= _own_repeats(batches_of_pictures(), repeated, shard)
        found.keep(lambda place: places[place] not in repeated)
    _refuse_shared_masks(batches_of_pictures, names, out, np.frombuffer(masks, np.int64), repeated)
    _refuse_pictures(found, out, np.frombuffer(identities, np.int64))
    return found


def _without_masks(batches: Iterable[Batch], folder: str) -> Iterator[Batch]:
    """Leave out the masks and overlays in the folder of the masks: they are no pictures of ours.

    That folder may lie in one that is searched, or be it.
    """
    for batch in batches:
        if not any(f"{each}/".startswith(f"{folder}/") for each in batch.folders()):
            yield batch
            continue
        kept = [
            batch.item(place)
            for place, identity in enumerate(batch.identities())
            if not (identity.endswith(MASK_ENDINGS) and written_by_us(Path(identity)))
        ]
        if kept:
            yield ItemBatch(kept)


def _chunks(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Join small batches, so that what numpy does is done for many names at once."""
    chunk: list[Batch] = []
    count = 0
    for batch in batches:
        chunk.append(batch)
        count += len(batch.names)
        if count >= BATCH_SIZE:
            yield chunk
            chunk, count = [], 0
    if chunk:
        yield chunk


class _Chunk:
    """The names and masks of some batches, one behind the other."""

    def __init__(self, batches: Sequence[Batch], names: MaskNames) -> None:
        self._batches = batches
        if len(batches) == 1:
            self.names, self.masks = batches[0].names, batches[0].masks(names)
        else:
            self.names = [name for batch in batches for name in batch.names]
            self.masks = [mask for batch in batches for mask in batch.masks(names)]
        self._starts = list(accumulate((len(batch.names) for batch in batches), initial=0))

    def item(self, place: int) -> Item:
        batch = bisect_right(self._starts, place) - 1
        return self._batches[batch].item(place - self._starts[batch])


class _Check:
    """Which pictures are finished: in a journal, with their mask, in the state they are in.

    Args:
        finished: what journals hold.
        there: what masks there are; None: those of the journal are, and no picture has changed.
    """

    def __init__(self, finished: Finished, there: _Existing | None) -> None:
        self._finished = finished
        self._there = there
        self.redone: list[Hashes] = []

    def left(self, found: Selection, chunk: _Chunk, own: Sequence[int]) -> list[int]:
        """Return the places, of some of a chunk, of the pictures that are not finished."""
        names, masks = chunk.names, chunk.masks
        if len(own) < len(names):
            names, masks = [names[at] for at in own], [masks[at] for at in own]
        keys = keys_of(names, masks)
        known, states = self._finished.look_up(keys)
        done = states != 0
        changed = np.zeros(len(own), bool)
        if self._there is not None:
            done &= self._there.which(masks)
            for at in np.flatnonzero(done).tolist():
                changed[at] = _has_changed(chunk.item(own[at]), int(states[at]))
        found.failed += int(np.count_nonzero(known & (states == 0)))
        found.lost += int(np.count_nonzero(~done & (states != 0)))
        found.changed += int(np.count_nonzero(changed))
        left = ~done | changed
        self.redone.append(keys[left & known])
        return [own[at] for at in np.flatnonzero(left).tolist()]


def _has_changed(item: Item, state: int) -> bool:
    try:
        return item.state() != state
    except OSError:  # it is gone, or its disk is: its mask is all that there is
        return False


class _Existing:
    """Which masks there are: asked for one by one, or listed at once where they are many."""

    def __init__(self, out: Path, expected: int) -> None:
        self._out = str(out)
        self._listed = None
        if expected >= _LISTED_FROM and out.is_dir():
            self._listed = np.sort(np.fromiter(map(hash, _files(self._out)), np.int64))

    def which(self, masks: list[str]) -> NDArray[np.bool_]:
        """Say of each path below the folder whether there is such a file."""
        films = bool(masks) and not masks[0].endswith(MASK_ENDINGS)  # the listing lacks these
        if self._listed is None or films:
            found = (os.path.exists(f"{self._out}/{mask}") for mask in masks)  # noqa: PTH110
            return np.fromiter(found, bool, len(masks))
        if not len(self._listed):
            return np.zeros(len(masks), bool)
        wanted = np.fromiter(map(hash, masks), np.int64, len(masks))
        order = np.argsort(wanted)  # neighbours are looked up from the cache
        places = np.empty(len(masks), np.int64)
        places[order] = np.searchsorted(self._listed, wanted[order])
        places.clip(max=len(self._listed) - 1, out=places)
        return np.asarray(self._listed[places] == wanted)


def _files(out: str) -> Iterator[str]:
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(f"{out}/{below}") as entries:
            for entry in entries:
                if entry.name.endswith(MASK_ENDINGS):
                    yield below + entry.name
                elif entry.is_dir() and entry.name[0] != "." and entry.name != OVERLAY_FOLDER:
                    waiting.append(f"{below}{entry.name}/")


def _repeated(hashes: NDArray[np.int64]) -> set[int]:
    """Return the places of all values that stand further to the front as well."""
    ordered = np.sort(hashes)
    if not (ordered[1:] == ordered[:-1]).any():
        return set()
    order = np.argsort(hashes, kind="stable")
    behind = hashes[order[1:]] == hashes[order[:-1]]
    return set(order[1:][behind].tolist())


def _own_repeats(batches: Iterable[Batch], repeated: set[int], shard: Shard | None) -> int:
    if shard is None:
        return len(repeated)
    names = (name for batch in batches for name in batch.names)
    return sum(place in repeated and shard.has(name) for place, name in enumerate(names))


def _refuse_shared_masks(
    list_pictures: Callable[[], Iterable[Batch]],
    names: MaskNames,
    out: Path,
    masks: NDArray[np.int64],
    repeated: set[int],
) -> None:
    shared = _repeated(masks) - repeated
    if not shared:
        return
    wanted = {int(masks[place]) for place in shared}
    owners: dict[str, tuple[str, str]] = {}
    for batch in list_pictures():
        for name, identity, mask in zip(
            batch.names, batch.identities(), batch.masks(names), strict=True
        ):
            if hash(mask) not in wanted:
                continue
            other, owner = owners.setdefault(mask, (name, identity))
            if owner != identity:
                raise InputError(
                    f"{other} and {name} would both be written to {out / mask}",
                    "add --full-names, which tells suffixes and folders apart",
                )


def _refuse_pictures(found: Selection, out: Path, identities: NDArray[np.int64]) -> None:
    """Refuse a mask that would replace a picture."""
    if not out.is_dir():
        return
    folder = str(out)
    targets = np.fromiter(
        (
            hash(f"{real_folder(f'{folder}/{below}')}/{base}")
            for below, _, base in (mask.rpartition("/") for mask in found.masks)
        ),
        np.int64,
        len(found.masks),
    )
    ordered = np.sort(targets)  # few, where those of all pictures may be millions
    places = np.searchsorted(ordered, identities).clip(max=max(len(ordered) - 1, 0))
    if not len(ordered) or not (ordered[places] == identities).any():
        return
    for place in np.flatnonzero(np.isin(targets, identities)).tolist():
        raise InputError(
            f"the mask {out / found.masks[place]} would overwrite its picture",
            "choose another folder with --out",
        )
