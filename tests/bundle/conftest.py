"""A small network from ONNX as a run, and its bundle: made once, without PyTorch."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.bundle.contents import gather
from fcn_deploy.bundle.writer import write_bundle
from fcn_deploy.core.run import Run
from fcn_deploy.parity.compare import compare, save
from fcn_deploy.parity.inputs import unlabelled_pictures
from fcn_deploy.runners.base import open_runner
from tests.candidates import as_candidate
from tests.conftest import TRACES
from tests.foreign_networks import foreign_run, noise
from tests.made_once import made_once

BOTH = ("mask", "logits")


@dataclass(frozen=True)
class Bundled:
    """A run, the pictures that it was compared on, and its bundle; read them, do not change them.

    Attributes:
        run: with a comparison that has passed.
        pictures: a folder of three.
        bundle: of the run.
    """

    run: Run
    pictures: Path
    bundle: Path

    def bundle_to(self, target: Path, *, key: Path | None = None) -> None:
        """Write the bundle again."""
        pictures = unlabelled_pictures(self.pictures)
        with open_runner(self.run, "original", outputs=BOTH) as reference:
            write_bundle(gather(self.run), reference, pictures, target, key=key)


@pytest.fixture(scope="session")
def bundled() -> Bundled:
    """A network of four convolutions from ONNX, compared in ONNX Runtime, and bundled."""

    def make(folder: Path) -> None:
        found = _at(folder)
        foreign_run(found.run)
        found.pictures.mkdir()
        for index, image in enumerate(noise(3, 24, 40)):
            Image.fromarray(image).save(found.pictures / f"{index}.png")
        with (
            open_runner(found.run, "original", outputs=BOTH) as reference,
            open_runner(found.run, "ort", outputs=BOTH) as candidate,
        ):
            shipped = open_runner(found.run, "ort")
            compared = compare(
                reference, [as_candidate(candidate, shipped)], unlabelled_pictures(found.pictures)
            )
        save(compared, found.run.parity_folder / "ort.json")
        found.bundle_to(found.bundle)

    return _at(made_once(Path(os.environ[TRACES]), "bundled", make))


def _at(folder: Path) -> Bundled:
    return Bundled(Run(folder / "run"), folder / "pictures", folder / "model.fcnd.zip")


@pytest.fixture
def bundle(bundled: Bundled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle, and a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copy(bundled.bundle, tmp_path / "model.fcnd.zip"))
