"""Layout: where the lists, images, masks and classes of a labelled folder lie."""

from pathlib import Path
from typing import Protocol

from fcn_deploy.data.class_list import ClassList

#: List → how its folders and files may be called.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


class Layout(Protocol):
    """How a folder holds its labelled images; one class for each kind of folder."""

    @property
    def root(self) -> Path:
        """The folder that holds images and masks."""
        ...

    @property
    def notice(self) -> str | None:
        """What was recognised, in one line; None for VOC, whose lists say it themselves."""
        ...

    @property
    def training_list(self) -> str:
        """The list to learn from."""
        ...

    def lists(self) -> tuple[str, ...]:
        """Return the names of the lists, ``train`` and ``val`` first."""
        ...

    def list_place(self, split: str) -> Path:
        """Return the file or folder that decides which samples are in a list."""
        ...

    def lines(self, split: str) -> tuple[str, ...]:
        """Return the samples of a list as they stand, repeated ones too.

        Raises:
            DataError: there is no such list, or it cannot be read.
        """
        ...

    def names(self, split: str) -> tuple[str, ...]:
        """Return the samples of a list that is as it should be.

        Raises:
            DataError: see :meth:`lines`; also a list that is empty or names a sample twice.
        """
        ...

    def image(self, name: str, split: str) -> Path:
        """Return the image of a sample.

        Raises:
            ListError: the line is not a name.
            DataError: there is no such image.
        """
        ...

    def mask(self, name: str, split: str) -> Path:
        """Return the mask of a sample.

        Raises:
            ListError: the line is not a name.
            DataError: there is no such mask.
        """
        ...

    def find_mask(self, name: str, split: str) -> Path | None:
        """Return the mask of a sample, or None."""
        ...

    def mask_folder(self, split: str) -> Path:
        """Return where the masks of a list lie."""
        ...

    def classes(self) -> ClassList:
        """Return names and colours, and which values of a mask mean which class.

        Raises:
            DataError: no file names them, or it is unreadable.
        """
        ...

    def source(self, split: str) -> str:
        """Return folder and list in words that are equal for equal samples alone."""
        ...

    def unlisted(self) -> tuple[str, ...]:
        """Return a line on each kind of file that is in no list."""
        ...
