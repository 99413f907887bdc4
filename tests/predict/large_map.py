"""A map of any size, a small network, and the memory that ``predict`` takes for it.

    python -m tests.predict.large_map FOLDER SIDE

prints what a map of SIDE×SIDE takes, and how many pixels of four parts of the mask are others when
these parts are segmented alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from onnx import save

from fcn_deploy import open_runner
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.graph.receptive_field import receptive_field
from tests.deploy_graph import DeployGraph

CLASSES = ("ground", "water", "forest", "road", "house")
PART = 2048
# A process inherits its `ru_maxrss` from the one that started it: VmHWM is its own memory's peak.
PROGRAM = """
import atexit
from pathlib import Path
from fcn_deploy.cli import main
atexit.register(lambda: print(Path("/proc/self/status").read_text()))
main()
"""


def write_network(path: Path) -> Path:
    """Write a deploy graph of random weights: three convolutions, stride 8, a deconvolution."""
    random = np.random.default_rng(0)
    net = DeployGraph()
    net.add("Sub", np.full((1, 3, 1, 1), 128, np.float32))
    for read, given in [(3, 8), (8, 8), (8, 5)]:
        weight = random.normal(0, read**-0.5 / 3, (given, read, 3, 3)).astype(np.float32)
        net.add("Conv", weight, strides=[2, 2], pads=[1] * 4)
        net.add("LeakyRelu", alpha=0.5)
    ramp = 1 - np.abs(np.arange(16) - 7.5) / 8
    bilinear = (np.eye(5)[:, :, None, None] * (ramp[:, None] * ramp)).astype(np.float32)
    net.add("ConvTranspose", bilinear, strides=[8, 8], pads=[4] * 4)
    model = net.finished()
    sizes = SizeRange((64, 64), (64, 64), (64, 64))
    spec = ModelSpec("maps", CLASSES, voc_palette(len(CLASSES)), sizes)
    write_metadata(model, spec, Precision.FP32, "sha256:none")
    save(model, path)
    return path


def write_large_map(path: Path, side: int) -> Path:
    """Write waves and noise, striped: the hardest layout for windows, whose rows cross it all."""
    import rasterio
    from rasterio.windows import Window

    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "height": side, "width": side,
        "crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6),
        "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
    }  # fmt: skip
    random = np.random.default_rng(0)
    columns = np.arange(side, dtype=np.float32)
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, side, 256):
            rows = np.arange(top, min(top + 256, side), dtype=np.float32)[:, None]
            waves = [
                np.sin(rows / (37 + 11 * b)) * np.cos(columns / (53 - 9 * b)) for b in range(3)
            ]
            coarse = random.integers(-24, 25, (1, 64, side // 4 + 1), np.int8)
            noise = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, : len(rows), :side]
            values = (120 + 100 * np.stack(waves) + noise).clip(1, 255).astype(np.uint8)
            out.write(values, window=Window(0, top, side, len(rows)))
    return path


def predict_in_a_child(network: Path, source: Path, out: Path, *options: str) -> tuple[int, str]:
    """Run ``fcn-deploy predict``; return its peak resident bytes and what it said."""
    words = ["predict", network, source, "--out", out, "--backend", "ort", "--threads", "1"]
    command = [sys.executable, "-c", PROGRAM, *words, *options]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.returncode == 0, child.stdout
    said, peak = child.stdout.rsplit("VmHWM:", 1)
    return int(peak.split()[0]) * 1024, said


def differing_pixels(network: Path, source: Path, mask: Path, top: int, left: int) -> int:
    """Count the pixels of a part of a mask that are others when the part is segmented alone."""
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(source) as whole, rasterio.open(mask) as masks:
        side = whole.height
        window = Window(left, top, min(PART, side - left), min(PART, side - top))
        picture = np.ascontiguousarray(whole.read(window=window).transpose(1, 2, 0))
        found = masks.read(1, window=window)
    margin = receptive_field(OnnxFile(network).model).margin
    with open_runner(network, "ort", threads=1) as runner:
        alone = runner.run(picture[None]).mask[0]
    inside = tuple(
        slice(margin if at else 0, None if at + PART >= side else -margin) for at in (top, left)
    )
    return int(np.count_nonzero(alone[inside] != found[inside]))


def main(folder: Path, side: int) -> None:
    import rasterio

    network = write_network(folder / "maps.onnx")
    source = folder / "map.tif"
    if not source.exists():
        write_large_map(source, side)
    out = folder / "masks"
    peak, said = predict_in_a_child(network, source, out, "--max-memory", "512MiB")
    line = json.loads((out / "predictions.jsonl").read_text().splitlines()[1])
    middle, last = side // 16 * 8, max(0, side - PART) // 8 * 8
    with rasterio.open(out / "map.tif") as mask, rasterio.open(source) as whole:
        kept = (mask.crs, mask.transform) == (whole.crs, whole.transform)
        colours = [mask.colormap(1)[index][:3] for index in range(5)]
    print(f"{said}peak {peak / 1e6:.0f} MB, {line['ms'] / 1e3:.0f} s, {line['shares']}")
    print(f"coordinates kept: {kept}, palette kept: {colours == list(voc_palette(5))}")
    for place in [(0, 0), (middle, middle), (last, last), (0, last)]:
        print(place, "differ:", differing_pixels(network, source, out / "map.tif", *place))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
