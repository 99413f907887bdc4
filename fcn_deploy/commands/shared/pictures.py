"""Where the pictures come from: said once for parity, bench, export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.runs import labelled_data
from fcn_deploy.core.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy import uint8
    from numpy.typing import NDArray

    from fcn_deploy.core.spec import ModelSpec
    from fcn_deploy.data.sources import DataSource
    from fcn_deploy.parity.inputs import Pictures


def say_passed_over(sources: Sequence[Path]) -> None:
    """Print how many pictures of folders are not read, where there are any."""
    from fcn_deploy.data.images import passed_over

    if (note := passed_over(sources)) is not None:
        console.print(note)


def calibration_pictures(
    source: Run, calibration: str | None, size: int
) -> tuple[int, str, Iterator[NDArray[uint8]]]:
    """Return how many pictures, of where, and the pictures, decoded as they are asked for."""
    from fcn_deploy.data.images import find_images, read_image
    from fcn_deploy.data.sources import labelled_images

    data = labelled_data(source, calibration, None, "name pictures with --calibration DIR")
    calibration = data.place
    folder = Path(calibration)
    if calibration == "synthetic" or labelled_images(folder) is not None:
        dataset = data.open("train")
        places = _spread(len(dataset), size)
        return len(places), dataset.source, (dataset[place].image for place in places)
    files = find_images([folder])
    say_passed_over([folder])
    places = _spread(len(files), size)
    return len(places), calibration, (read_image(files[place]) for place in places)


def _spread(count: int, size: int) -> list[int]:
    # Evenly: the frames of a video stand in order, and its first minute is one scene.
    return [place * count // min(count, size) for place in range(min(count, size))]


_NAME_PICTURES = "name the data with --data DIR, or pictures with --images DIR"


def say_recognised(source: DataSource) -> None:
    """Print how a folder of labelled images is read, where its files do not say it themselves."""
    for line in source.notices():
        console.print(line)


def parity_pictures(
    source: Run,
    spec: ModelSpec,
    data: str | None,
    images: Path | None,
    *,
    held_out: float | None,
    limit: int | None,
) -> Pictures:
    """Return the pictures that `parity` compares on: those named, or the run's validation set."""
    from fcn_deploy.parity.inputs import labelled_pictures, unlabelled_pictures

    if images is not None:
        pictures = unlabelled_pictures(images, limit)
        say_passed_over([images])
        return pictures
    named = labelled_data(source, data, held_out, _NAME_PICTURES)
    say_recognised(named)
    return labelled_pictures(named.open("val"), spec, limit)


def bench_pictures(images: Path | None) -> tuple[list[NDArray[np.uint8]], str]:
    """Return pictures to measure with, uint8 [H, W, 3], and where they come from."""
    from fcn_deploy.bench.inputs import NUM_INPUTS
    from fcn_deploy.data.images import find_images, read_image
    from fcn_deploy.data.scenes.dataset import SceneDataset

    if images is not None:
        files = find_images([images])[:NUM_INPUTS]
        say_passed_over([images])
        return [read_image(path) for path in files], str(images)
    scenes = SceneDataset.open("val")
    return [scenes[index].image for index in range(NUM_INPUTS)], scenes.source
