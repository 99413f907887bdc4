"""Batches of names: pictures as they are listed, many at a time.

Of millions of pictures nearly all may be finished.  So a listing gives names alone, which is what a
journal is asked with, and an :class:`Item` is made of those that are left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fcn_deploy.core.errors import InputError
from fcn_deploy.predict.geotiff import is_map
from fcn_deploy.predict.items import FileItem, Item, file_item, real_folder

#: Most names of a batch.
BATCH_SIZE = 1 << 16
#: The last four characters of what may be a map.
_MAP_ENDINGS = (".tif", "tiff")


class MaskNames:
    """The path of each picture's mask below the folder of the masks, with ``/`` between its parts.

    Args:
        shared_folder: the folder below which all pictures lie: with it masks have full names.
        maps: whether masks of maps are GeoTIFF, ``.tif``; see :func:`with_maps`.
    """

    def __init__(self, shared_folder: str | None = None, *, maps: bool = False) -> None:
        self._shared = shared_folder
        self.maps = maps

    @property
    def full(self) -> bool:
        """Whether masks have full names."""
        return self._shared is not None

    def of(self, item: Item) -> str:
        """Return the path of a picture's mask."""
        if self._shared is None:
            return mask_name(item.name[item.inside :])
        return f"{self._below(item.folder)}{item.base}.png"

    def of_folder(self, folder: str, inside: str, bases: Sequence[str]) -> list[str]:
        """Return the paths of the masks of pictures of one folder.

        Args:
            folder: without links.
            inside: the part of its name that short names have, with ``/`` at its end if any.
            bases: names of pictures in it.
        """
        if self._shared is None:
            return [f"{inside}{base[: base.rindex('.')]}.png" for base in bases]
        below = self._below(folder)
        return [f"{below}{base}.png" for base in bases]

    def _below(self, folder: str) -> str:
        assert self._shared is not None
        if not folder.startswith(self._shared):
            raise InputError(f"{folder} is not below {self._shared}", "drop --full-names")
        below = folder[len(self._shared) :].lstrip("/")
        return f"{below}/" if below else ""


def with_maps(names: Sequence[str], masks: list[str]) -> list[str]:
    """Return the paths of masks, those of maps (:func:`is_map`) with .tif."""
    for place, name in enumerate(names):
        if name[-4:].lower() in _MAP_ENDINGS and is_map(name):
            masks[place] = f"{masks[place][:-4]}.tif"
    return masks


def mask_name(name: str) -> str:
    """Return a name, with folders or without, with .png in place of its suffix."""
    dot = name.rfind(".")
    return f"{name[:dot]}.png" if dot > name.rfind("/") + 1 else f"{name}.png"


class Batch(ABC):
    """Some pictures.

    Attributes:
        names: of each.
    """

    names: list[str]

    @abstractmethod
    def folders(self) -> set[str]:
        """Return the folders, without links, that they lie in."""

    @abstractmethod
    def identities(self) -> list[str]:
        """Return what two names of one picture have in common, of each."""

    def masks(self, names: MaskNames) -> list[str]:
        """Return the path of each one's mask."""
        masks = self._masks(names)
        return with_maps(self.names, masks) if names.maps else masks

    @abstractmethod
    def _masks(self, names: MaskNames) -> list[str]:
        """Return it as that of a picture."""

    @abstractmethod
    def item(self, place: int) -> Item:
        """Return one of them."""


class ItemBatch(Batch):
    """Pictures of any kind."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.names = [item.name for item in items]
        self._items = items

    def folders(self) -> set[str]:
        """Return the folder of each."""
        return {item.folder for item in self._items}

    def identities(self) -> list[str]:
        """Return each one's identity."""
        return [item.identity for item in self._items]

    def _masks(self, names: MaskNames) -> list[str]:
        return [names.of(item) for item in self._items]

    def item(self, place: int) -> Item:
        """Return one of them."""
        return self._items[place]


class NameBatch(Batch):
    """Files by their names, of any folders."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._prefixes = {name[: name.rfind("/") + 1] for name in names}

    def folders(self) -> set[str]:
        """Return the folder of each."""
        return set(map(real_folder, self._prefixes))

    def identities(self) -> list[str]:
        """Return each one's path without links."""
        here = real_folder("") + "/"
        for root in ("", here):  # most lists lead through no links
            if all(real_folder(p) == (root + p).rstrip("/") for p in self._prefixes):
                return [root + name for name in self.names] if root else self.names
        return [
            f"{real_folder(name[:base])}/{name[base:]}"
            for name in self.names
            for base in (name.rfind("/") + 1,)
        ]

    def _masks(self, names: MaskNames) -> list[str]:
        if names.full:
            return [names.of(file_item(name)) for name in self.names]
        return [  # mask_name, for millions
            f"{name[base:dot] if (dot := name.rfind('.')) > base else name[base:]}.png"
            for name in self.names
            for base in (name.rfind("/") + 1,)
        ]

    def item(self, place: int) -> Item:
        """Return one of them."""
        return file_item(self.names[place])


class FolderBatch(Batch):
    """Pictures of one folder.

    Args:
        prefix: what stands before each name, with ``/`` at its end if any.
        bases: the names of the pictures in the folder.
        inside: where in the name the part begins after which the mask is named.
        folder: the folder without links.
    """

    def __init__(self, prefix: str, bases: Sequence[str], inside: int, folder: str) -> None:
        self.names = [prefix + base for base in bases]
        self._inside = inside
        self._below = prefix[inside:]
        self._bases = bases
        self._folder = folder

    def folders(self) -> set[str]:
        """Return the folder."""
        return {self._folder}

    def identities(self) -> list[str]:
        """Return each one's path without links."""
        prefix = f"{self._folder}/"
        return [prefix + base for base in self._bases]

    def _masks(self, names: MaskNames) -> list[str]:
        return names.of_folder(self._folder, self._below, self._bases)

    def item(self, place: int) -> Item:
        """Return one of them."""
        return FileItem(self.names[place], self._inside)
