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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.items import Item, real_folder
from fcn_deploy.predict.journal_lines import Finished, Hashes, keys_of
from fcn_deploy.predict.shard import Shard

#: Overlays lie apart from the masks, so that the folder of masks is one.
OVERLAY_FOLDER = "overlays"
#: Pictures that are looked up in a journal at once.
_CHUNK = 1 << 16
#: From so many finished pictures on their masks' folder is listed once, and not asked for each.
_LISTED_FROM = 100_000
_NO_KEYS: Hashes = np.zeros(0, np.uint64)


class MaskNames:
    """The path of each picture's mask below the folder of the masks.

    Args:
        shared_folder: the folder below which all pictures lie: with it masks have full names.
    """

    def __init__(self, shared_folder: str | None = None) -> None:
        self._shared = shared_folder

    def of(self, item: Item) -> str:
        """Return the path, with ``/`` between its parts."""
        if self._shared is None:
            return os.path.splitext(item.name[item.inside :])[0] + ".png"  # noqa: PTH122
        folder = item.folder
        if not folder.startswith(self._shared):
            raise InputError(f"{item.name} is not below {self._shared}", "drop --full-names")
        below = folder[len(self._shared) :].lstrip("/")
        return f"{below}/{item.base}.png" if below else f"{item.base}.png"


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
    """

    items: list[Item] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    total: int = 0
    changed: int = 0
    lost: int = 0
    failed: int = 0
    redone: Hashes = field(default_factory=_NO_KEYS.copy)

    def keep(self, wanted: Callable[[int], bool]) -> None:
        """Keep those whose place is wanted."""
        kept = [place for place in range(len(self.items)) if wanted(place)]
        self.items = [self.items[place] for place in kept]
        self.masks = [self.masks[place] for place in kept]


def select(
    sources: Iterable[Item],
    names: MaskNames,
    out: Path,
    *,
    shard: Shard | None = None,
    finished: Finished | None = None,
) -> Selection:
    """Choose what is left to do.

    Args:
        sources: the pictures; listed a second time where two would have one mask.
        names: of the masks.
        out: the folder of the masks.
        shard: the part to do; None: all.
        finished: what journals hold; None: nothing.

    Raises:
        InputError: two pictures would have one mask, or a mask would replace a picture.
    """
    real_folder.cache_clear()  # links, and the current folder, may have changed
    found = Selection()
    places = array("q")  # of those left, among all
    identities, masks = array("q"), array("q")
    there = _Existing(out, 0 if finished is None else len(finished))
    redone: list[Hashes] = []
    for chunk in _chunks(sources):
        chunk_masks = [names.of(item) for item in chunk]
        begin = len(masks)
        # Hashes of Python's own are of this process alone, which is enough to find what is twice.
        identities.extend([hash(item.identity) for item in chunk])
        masks.extend(map(hash, chunk_masks))
        own = range(len(chunk))
        if shard is not None:
            own = [at for at in own if shard.has(chunk[at].name)]  # type: ignore[assignment]
        found.total += len(own)
        left: Iterable[int] = own
        if finished is not None and len(finished):
            keys = keys_of([chunk[at].name for at in own], [chunk_masks[at] for at in own])
            chosen, known = _left(found, finished, keys, [chunk[at] for at in own],
                                  [chunk_masks[at] for at in own], there)  # fmt: skip
            redone.append(known)
            left = [own[at] for at in chosen]
        for at in left:
            found.items.append(chunk[at])
            found.masks.append(chunk_masks[at])
            places.append(begin + at)
    found.redone = np.concatenate([_NO_KEYS, *redone])
    repeated = _repeated(np.frombuffer(identities, np.int64))
    if repeated:
        found.total -= _own_repeats(sources, repeated, shard)
        found.keep(lambda place: places[place] not in repeated)
    _refuse_shared_masks(sources, names, out, np.frombuffer(masks, np.int64), repeated)
    _refuse_pictures(found, out, np.frombuffer(identities, np.int64))
    return found


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    listed = iter(items)
    while chunk := list(islice(listed, _CHUNK)):
        yield chunk


def _left(
    found: Selection,
    finished: Finished,
    keys: Hashes,
    items: list[Item],
    masks: list[str],
    there: _Existing,
) -> tuple[list[int], Hashes]:
    """Return the places of those that are not finished, and of these the keys that have a line."""
    known, states = finished.look_up(keys)
    done = there.which(masks) & (states != 0)
    left: list[int] = []
    again: list[int] = []
    for at, (is_known, is_done) in enumerate(zip(known.tolist(), done.tolist(), strict=True)):
        if is_known:
            state = int(states[at])
            if is_done and _state(items[at]) == state:
                continue
            if state == 0:
                found.failed += 1
            elif is_done:
                found.changed += 1
            else:
                found.lost += 1
            again.append(at)
        left.append(at)
    return left, keys[again]


def _state(item: Item) -> int | None:
    try:
        return item.state()
    except OSError:  # it is gone, which is an error of its own once it is read
        return None


class _Existing:
    """Which masks there are: asked for one by one, or listed at once where they are many."""

    def __init__(self, out: Path, expected: int) -> None:
        self._out = str(out)
        self._listed = None
        if expected >= _LISTED_FROM and out.is_dir():
            self._listed = np.sort(np.fromiter(map(hash, _files(self._out)), np.int64))

    def which(self, masks: list[str]) -> NDArray[np.bool_]:
        """Say of each path below the folder whether there is such a file."""
        if self._listed is None:
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
                if entry.name.endswith(".png"):
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


def _own_repeats(sources: Iterable[Item], repeated: set[int], shard: Shard | None) -> int:
    if shard is None:
        return len(repeated)
    return sum(place in repeated and shard.has(item.name) for place, item in enumerate(sources))


def _refuse_shared_masks(
    sources: Iterable[Item],
    names: MaskNames,
    out: Path,
    masks: NDArray[np.int64],
    repeated: set[int],
) -> None:
    shared = _repeated(masks) - repeated
    if not shared:
        return
    wanted = {int(masks[place]) for place in shared}
    owners: dict[str, Item] = {}
    for item in sources:
        mask = names.of(item)
        if hash(mask) not in wanted:
            continue
        other = owners.setdefault(mask, item)
        if other.identity != item.identity:
            raise InputError(
                f"{other.name} and {item.name} would both be written to {out / mask}",
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
    for place in np.flatnonzero(np.isin(targets, identities)).tolist():
        raise InputError(
            f"the mask {out / found.masks[place]} would overwrite its picture",
            "choose another folder with --out",
        )
