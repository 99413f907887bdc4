"""FolderDataset: one list of a labelled folder as a dataset, whatever the folder's layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.class_list import ClassList
from fcn_deploy.data.dataset import Sample
from fcn_deploy.data.images import image_size, read_image
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.pairs import size_mismatch

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class FolderDataset:
    """One list of a labelled folder.

    Attributes:
        layout: where the folder's files lie.
        split: name of the list, e.g. ``train``.
        classes: names, colours and values.
        names: the samples, in the list's order.
        image_paths: one per sample.
        mask_paths: one per sample.
        image_sizes: (height, width) one per sample.
    """

    layout: Layout
    split: str
    classes: ClassList
    names: tuple[str, ...]
    image_paths: tuple[Path, ...]
    mask_paths: tuple[Path, ...]
    image_sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, layout: Layout, split: str) -> Self:
        """Find the list's pairs and check that every file is there and sizes agree.

        Only headers are read; :func:`fcn_deploy.data.dataset.check_and_cache` decodes everything.

        Raises:
            DataError: the list or a file is missing, empty or contradictory.
        """
        names = layout.names(split)
        images = tuple(layout.image(name, split) for name in names)
        masks = tuple(layout.mask(name, split) for name in names)
        sizes = tuple(image_size(path) for path in images)
        for image, mask, size in zip(images, masks, sizes, strict=True):
            if (error := size_mismatch(image, size, mask, image_size(mask))) is not None:
                raise error
        return cls(layout, split, layout.classes(), names, images, masks, sizes)

    @property
    def root(self) -> Path:
        """The folder that holds images and masks."""
        return self.layout.root

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per index."""
        return self.classes.names

    @property
    def source(self) -> str:
        """Folder and list."""
        return self.layout.source(self.split)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.image_paths[index])
        return Sample(self.names[index], image, self.mask(index))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Decode a sample's mask alone, uint8 [H, W]."""
        return self.classes.read_mask(self.mask_paths[index])

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every sample, in order."""
        return list(self.image_sizes)

    def at_least(self, height: int, width: int) -> Self:
        """Return the list without the samples smaller than height × width."""
        kept = [i for i, (h, w) in enumerate(self.image_sizes) if h >= height and w >= width]
        return replace(
            self,
            names=tuple(self.names[i] for i in kept),
            image_paths=tuple(self.image_paths[i] for i in kept),
            mask_paths=tuple(self.mask_paths[i] for i in kept),
            image_sizes=tuple(self.image_sizes[i] for i in kept),
        )
