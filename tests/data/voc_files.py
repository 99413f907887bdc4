"""Where the files of a sample lie in a folder in VOC layout."""

from pathlib import Path


def image_of(root: Path, name: str) -> Path:
    return root / "JPEGImages" / f"{name}.jpg"


def mask_of(root: Path, name: str) -> Path:
    return root / "SegmentationClass" / f"{name}.png"


def list_of(root: Path, split: str = "train") -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"
