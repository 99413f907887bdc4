"""SceneDataset: the built-in synthetic scenes as a dataset."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.data.dataset import Sample
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene

#: What `--data synthetic` draws: scenes per split, and their size (height, width).
SCENE_SIZE = (320, 480)
SCENE_COUNTS = {"train": 160, "val": 24}
# The two splits draw from different seeds, so that no scene is in both.
SCENE_SEEDS = {"train": 0, "val": 1}


@dataclass(frozen=True)
class SceneDataset:
    """The built-in synthetic scenes: drawn on demand, the same for the same seed."""

    seed: int
    length: int
    size: tuple[int, int] = SCENE_SIZE

    @classmethod
    def open(cls, split: str) -> SceneDataset:
        """Return the scenes of ``train`` or ``val``."""
        return cls(SCENE_SEEDS[split], SCENE_COUNTS[split])

    @property
    def class_names(self) -> tuple[str, ...]:
        """The kinds of shape."""
        return SCENE_CLASS_NAMES

    @property
    def source(self) -> str:
        """What was drawn."""
        return f"built-in synthetic scenes (seed {self.seed})"

    @property
    def names(self) -> tuple[str, ...]:
        """Seed and number of each scene."""
        return tuple(map(self._name, range(self.length)))

    def _name(self, index: int) -> str:
        return f"scene_{self.seed}_{index:04d}"

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(index)
        image, mask = draw_scene(self.seed, index, self.size)
        return Sample(self._name(index), image, mask)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Draw a scene for its mask, uint8 [H, W]."""
        return self[index].mask

    def sizes(self) -> list[tuple[int, int]]:
        """Return (height, width) of every scene."""
        return [self.size] * self.length

    def at_least(self, height: int, width: int) -> SceneDataset:
        """Return the scenes if they are at least height × width, else none of them."""
        fits = self.size[0] >= height and self.size[1] >= width
        return self if fits else replace(self, length=0)
