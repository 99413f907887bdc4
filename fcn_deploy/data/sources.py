"""open_dataset: the dataset that ``--data`` names, which is synthetic or a folder."""

from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.core.errors import DataError
from fcn_deploy.data.class_list import read_class_list
from fcn_deploy.data.dataset import Dataset
from fcn_deploy.data.folder_dataset import FolderDataset
from fcn_deploy.data.layout import Layout
from fcn_deploy.data.recognise import find_layout
from fcn_deploy.data.scenes.dataset import SceneDataset
from fcn_deploy.data.voc import VocDataset, VocLayout


@dataclass(frozen=True)
class DataSource:
    """What ``--data`` and ``--split SHARE`` name.

    Attributes:
        place: ``synthetic``, or a folder.
        held_out: the share of a folder without lists that is kept for validation; None for the
            usual one.
    """

    place: str
    held_out: float | None = None

    @property
    def layout(self) -> Layout | None:
        """Where the folder's files lie; None for the built-in scenes.

        Raises:
            DataError: see :func:`fcn_deploy.data.recognise.find_layout`.
        """
        if self.place == "synthetic":
            if self.held_out is not None:
                raise DataError(
                    f"--split {self.held_out:g}, but the built-in scenes have lists", "drop --split"
                )
            return None
        return find_layout(Path(self.place), self.held_out)

    def open(self, split: str) -> Dataset:
        """Open a list.

        Raises:
            DataError: see :func:`fcn_deploy.data.recognise.find_layout` and
                :meth:`FolderDataset.of`.
        """
        layout = self.layout
        if layout is None:
            return SceneDataset.open(split)
        if isinstance(layout, VocLayout):
            return VocDataset.of(layout, split)
        return FolderDataset.of(layout, split)

    @property
    def training_list(self) -> str:
        """The list to learn from."""
        layout = self.layout
        return "train" if layout is None else layout.training_list

    def notices(self) -> tuple[str, ...]:
        """Return a line each on what was recognised, and on classes that no classes file names."""
        layout = self.layout
        if layout is None:
            return ()
        classes = (
            read_class_list(layout.root) if isinstance(layout, VocLayout) else layout.classes()
        )
        named = None
        if classes.file is not None or (layout.root / "JPEGImages").is_dir():
            named = classes.notice
        return tuple(line for line in (layout.notice, named) if line is not None)


def open_dataset(source: str | Path, split: str, held_out: float | None = None) -> Dataset:
    """Open one list of ``synthetic`` or of a folder of labelled images.

    Args:
        source: ``synthetic``, or a folder in VOC layout, with images/ and masks/, or of a
            published data set.
        split: e.g. ``train``.
        held_out: see :class:`DataSource`.

    Raises:
        DataError: see :meth:`DataSource.open`.
    """
    return DataSource(str(source), held_out).open(split)


def labelled_images(folder: Path) -> list[Path] | None:
    """Return the images of a labelled folder, of all its lists; None where it is of no layout."""
    try:
        layout = find_layout(folder)
    except DataError:
        return None
    named = ((name, split) for split in layout.lists() for name in layout.lines(split))
    return sorted({layout.image(name, split) for name, split in named})
