"""Memory and time of ``predict`` on a large map, of a generated GeoTIFF and a small network.

    python benchmarks/maps.py FOLDER --side 20000

The map is striped as cameras and old tools write them, the hardest layout for windows: a tile's
rows cross it all.  Its network (three convolutions of stride 2, a transposed convolution, random
weights) is fast, so that reading, cutting and writing show.  Prints JSON: peak memory of the whole
process that predicts, seconds, and whether a part of the mask is that of this part alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio
from onnx import TensorProto, helper, numpy_helper, save
from rasterio.transform import from_origin
from rasterio.windows import Window

from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.graph.receptive_field import receptive_field

CLASSES = ("ground", "water", "forest", "road", "house")
_CHANNELS = 8
_PART = 2048


def write_network(path: Path, seed: int = 0) -> Path:
    """Write a deploy graph of random weights, stride 8, that sees some 30 pixels far."""
    random = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(np.full((1, 3, 1, 1), 128, np.float32), "mean")]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["planes", "mean"], ["x0"]),
    ]
    for layer, (before, after) in enumerate([(3, _CHANNELS), (_CHANNELS,) * 2, (_CHANNELS, 5)]):
        weight = random.normal(0, before**-0.5 / 3, (after, before, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        names = [f"x{layer}", f"w{layer}"]
        nodes.append(
            helper.make_node("Conv", names, [f"y{layer}"], strides=[2, 2], pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("LeakyRelu", [f"y{layer}"], [f"x{layer + 1}"], alpha=0.5))
    ramp = 1 - np.abs(np.arange(16) - 7.5) / 8
    kernel = np.eye(5)[:, :, None, None] * (ramp[:, None] * ramp)
    weights += [
        numpy_helper.from_array(kernel.astype(np.float32), "bilinear"),
        numpy_helper.from_array(np.zeros(2, np.int64), "zeros"),
        numpy_helper.from_array(np.array([2, 3]), "sides"),
    ]
    nodes += [
        helper.make_node(
            "ConvTranspose", ["x3", "bilinear"], ["grid"], strides=[8, 8], pads=[4, 4, 4, 4]
        ),
        helper.make_node("Shape", ["image"], ["size"], start=1, end=3),
        helper.make_node("Slice", ["grid", "zeros", "size", "sides"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["index"], axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["mask"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])
    mask = helper.make_tensor_value_info("mask", TensorProto.UINT8, ["N", "H", "W"])
    model = helper.make_model(
        helper.make_graph(nodes, "maps", [image], [mask], weights),
        ir_version=8, opset_imports=[helper.make_opsetid("", 17)],
    )  # fmt: skip
    size = (64, 64)
    spec = ModelSpec("maps", CLASSES, voc_palette(len(CLASSES)), SizeRange(size, size, size))
    write_metadata(model, spec, Precision.FP32, "sha256:none")
    save(model, path)
    return path


def write_map(path: Path, height: int, width: int, *, nodata: int | None = None) -> Path:
    """Write a striped map of waves and noise in UTM zone 32, half a metre a pixel."""
    profile = {
        "driver": "GTiff", "dtype": "uint8", "count": 3, "height": height, "width": width,
        "crs": "EPSG:32632", "transform": from_origin(500_000, 5_400_000, 0.5, 0.5),
        "nodata": nodata, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer",
    }  # fmt: skip
    random = np.random.default_rng(0)
    columns = np.arange(width, dtype=np.float32)
    with rasterio.open(path, "w", **profile) as out:
        for top in range(0, height, 256):
            rows = np.arange(top, min(top + 256, height), dtype=np.float32)[:, None]
            waves = [
                np.sin(rows / (37 + 11 * band)) * np.cos(columns / (53 - 9 * band))
                for band in range(3)
            ]
            coarse = random.integers(-24, 25, (1, 64, width // 4 + 1), np.int8)
            noise = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, : len(rows), :width]
            values = (120 + 100 * np.stack(waves) + noise).clip(1, 255).astype(np.uint8)
            out.write(values, window=Window(0, top, width, len(rows)))
    return path


def predict_in_a_child(network: Path, map_file: Path, out: Path, *options: str) -> tuple[int, str]:
    """Run ``fcn-deploy predict`` and return its peak resident bytes and what it said."""
    command = [
        sys.executable, "-m", "fcn_deploy", "predict", network, map_file, "--out", out,
        "--backend", "ort", "--threads", "1", *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdout is not None
        said = child.stdout.read().decode()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"predict ended with {child.returncode}: {said}")
    return usage.ru_maxrss * 1024, said


def differing_pixels(network: Path, map_file: Path, mask_file: Path, top: int, left: int) -> int:
    """Count the pixels of a part of the mask that are others when this part is segmented alone.

    Its margin, where the map goes on, is left out; the part must lie on the network's grid.
    """
    from fcn_deploy import open_runner

    with rasterio.open(map_file) as source, rasterio.open(mask_file) as mask:
        bottom, right = min(top + _PART, source.height), min(left + _PART, source.width)
        window = Window(left, top, right - left, bottom - top)
        picture = np.ascontiguousarray(source.read(window=window).transpose(1, 2, 0))
        found = mask.read(1, window=window)
        whole = (bottom == source.height, right == source.width)
    margin = receptive_field(OnnxFile(network).model).margin
    with open_runner(network, "ort", threads=1) as runner:
        alone = runner.run(picture[None]).mask[0]
    rows = slice(margin if top else 0, None if whole[0] else -margin)
    columns = slice(margin if left else 0, None if whole[1] else -margin)
    return int(np.count_nonzero(alone[rows, columns] != found[rows, columns]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--max-memory", default="512MiB")
    given = parser.parse_args()
    folder: Path = given.folder
    network = write_network(folder / "maps.onnx")
    map_file = folder / "map.tif"
    if not map_file.exists():
        write_map(map_file, given.side, given.side)
    options = ("--tile", given.tile, "--max-memory", given.max_memory)
    peak, said = predict_in_a_child(network, map_file, folder / "masks", *options)
    mask_file = folder / "masks" / "map.tif"
    line = json.loads((folder / "masks" / "predictions.jsonl").read_text().splitlines()[1])
    far = (given.side - _PART) // 2 // 64 * 64
    last = max(0, (given.side - _PART) // 8 * 8)
    places = [(0, 0), (far, far), (last, last), (0, last)]
    with rasterio.open(mask_file) as mask, rasterio.open(map_file) as source:
        kept = mask.crs == source.crs and mask.transform == source.transform
        colours = mask.colormap(1)
    print(
        json.dumps(
            {
                "side": given.side, "peak MB": round(peak / 1e6), "seconds": line["ms"] / 1e3,
                "shares": line["shares"], "coordinates kept": kept,
                "palette kept": [colours[i][:3] for i in range(5)] == list(voc_palette(5)),
                "map MB": round(map_file.stat().st_size / 1e6),
                "mask MB": round(mask_file.stat().st_size / 1e6, 1),
                "pixels that differ from parts alone": [
                    differing_pixels(network, map_file, mask_file, *place) for place in places
                ],
                "said": said.splitlines(),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
