"""Networks of real libraries through every command, on small pictures, with random weights.

segmentation_models_pytorch and transformers are not in requirements.lock: they are tested where
somebody has installed them (`pip install 'fcn-deploy[networks]'`).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn_deploy.core.spec import Product
from fcn_deploy.data.images import opened
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.tensorrt import api
from tests.command_line import FcnDeploy

SMP = "segmentation_models_pytorch"
ENCODER = ("encoder_name=resnet18", "encoder_weights=none")
TORCHVISION = "torchvision.models.segmentation"
CLASSES = ("sky", "road", "car", "tree")
QUICK = ("--size", "64x96", "--repeats", "3", "--seconds", "0.01", "--no-cold-start")
TRUSTED = "--trust-code"


@dataclass(frozen=True)
class Library:
    """A network and what it needs.

    Attributes:
        library: to be installed.
        network: what is typed.
        arguments: of its factory.
        multiple_of: that it takes.
        tail: the form that its export has.
    """

    library: str
    network: str
    arguments: tuple[str, ...] = ()
    multiple_of: int = 1
    tail: str = "crop"

    @property
    def words(self) -> tuple[str, ...]:
        """What is typed after ``import``."""
        arguments = [word for argument in self.arguments for word in ("--arg", argument)]
        return (f"python:{self.network}", *arguments, "--multiple-of", str(self.multiple_of))


LIBRARIES = {
    "unet": Library(SMP, f"{SMP}:Unet", ENCODER, 32),
    "fpn": Library(SMP, f"{SMP}:FPN", ENCODER, 32),
    "deeplabv3plus": Library(SMP, f"{SMP}:DeepLabV3Plus", ENCODER, 16),
    "deeplabv3": Library(
        "torchvision", f"{TORCHVISION}:deeplabv3_resnet50", ("weights_backbone=none",)
    ),
    "lraspp": Library(
        "torchvision", f"{TORCHVISION}:lraspp_mobilenet_v3_large", ("weights_backbone=none",)
    ),
    "segformer": Library("transformers", "tests.factories:segformer", (), 32, "resize"),
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two scenes of a size that no network divides."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(2):
        image, _ = draw_scene(0, index, (61, 83))
        Image.fromarray(image).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LIBRARIES)
def test_every_command_takes_the_network(name: str, fcn_deploy: FcnDeploy, pictures: Path) -> None:
    network = LIBRARIES[name]
    pytest.importorskip(network.library, reason=f"{network.library} is not installed")
    Path("classes.txt").write_text("\n".join(CLASSES))

    def typed(*words: str | Path) -> str:
        finished = fcn_deploy(*words)
        assert finished.code == 0, (words, finished.out, finished.err)
        return finished.out

    torch.manual_seed(0)
    typed("import", *network.words, "--classes", "classes.txt", "--out", "run")
    assert f"tail {network.tail}" in typed("export", "run", TRUSTED)
    assert "masks checked against PyTorch" in typed("export", "run", "--fp16", TRUSTED)
    typed(
        "parity", "run", "--backend", "ort", "--backend", "openvino", "--images", pictures,
        "--json", "parity.json", TRUSTED,
    )  # fmt: skip
    results = json.loads(Path("parity.json").read_text())["results"]
    assert [result["decided_flips"] for result in results] == [0, 0]
    typed("parity", "run", "--fp16", "--backend", "ort", "--images", pictures, TRUSTED)
    typed("bench", "run", "--backend", "ort", *QUICK, "--json", "bench.json", TRUSTED)
    rows = json.loads(Path("bench.json").read_text())["rows"]
    assert {row["runner"]["backend"] for row in rows} == {"ort", "baseline"}
    masks = []
    for backend in ("torch", "ort"):
        typed("predict", "run", pictures, "--backend", backend, "--out", backend, TRUSTED)
        with opened(Path(backend) / "0.png") as mask:
            masks.append(np.asarray(mask))
    assert masks[0].shape == (61, 83)
    assert (masks[0] == masks[1]).mean() > 0.99
    if api.unavailable_reason(Product.RTX) is None:
        built = typed("build", "run", "--product", "trt-rtx", "--profile", "1x1x1:1x64x96:2x97x131")
        assert ".plan" in built
