"""The scripts that measure tails and FP16 files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import fp16, tails
from fcn_deploy.core.files import file_digest, read_json
from fcn_deploy.core.spec import Tail
from tests.fakes import FakeRunner


def test_layers_behind_the_matrix_product() -> None:
    layers = ["network.score_myl0_23", "tail.MatMul_myl0_26", "topk", "crop"]
    assert tails.behind_product(layers) == ["topk", "crop"]
    with pytest.raises(ValueError, match="not enough values"):
        tails.behind_product(["network.score_myl0_23"])


def test_both_tails_are_timed_in_every_repeat() -> None:
    runners = {tail: FakeRunner() for tail in tails.FORMS}
    images = [np.full((1, 8, 9, 3), level, np.uint8) for level in range(3)]
    row = tails.row("fake", runners, images, repeats=5)
    assert {name: len(times) for name, times in row["ms"].items()} == {
        Tail.EARLY_ARGMAX.value: 5,
        Tail.TOURNAMENT.value: 5,
    }
    assert row["times"]["interval"] is not None


def test_the_difference_of_two_files_is_numpys() -> None:
    exact = np.array([[[[3.0, 1.0]], [[1.0, 2.0]], [[0.0, 0.0]]]], np.float32)  # (1, 3, 1, 2)
    given = exact.copy()
    given[0, 0, 0, 1] = 2.5  # the second pixel becomes class 0
    given[0, 2, 0, 0] = -2.0
    difference = fp16.Difference()
    for _ in range(2):
        difference.add(exact, given)
    assert difference.to_json() == {
        "max_error": 2.0,
        "rms_error": pytest.approx(np.sqrt((1.5**2 + 2.0**2) / 6)),
        "flips": 2,
        "widest_flip": 1.0,
    }


@pytest.mark.slow
def test_an_fp16_file_against_its_fp32_file(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(2):
        pixels = generator.integers(0, 256, (33, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    target = tmp_path / "fp16.json"
    exact, half = tiny_run / "model.onnx", tiny_run / "model.fp16.onnx"
    steps = (word for number in "810" for word in ("--mean-steps", number))
    files = (f"same={exact}", f"half={half}")
    fp16.main([str(target), str(exact), str(folder), *files, *steps])
    document = read_json(target, repair="")
    assert (document["kind"], document["schema"]) == (fp16.FP16, fp16.FP16_SCHEMA)
    assert (document["pictures"], document["pixels"]) == (2, 2 * 33 * 40)
    same, rounded, eighths, whole, plain = document["files"]
    assert (same["max_error"], same["flips"], same["widest_flip"]) == (0.0, 0, None)
    assert rounded["digest"] == file_digest(half)
    assert 0 < rounded["rms_error"] < rounded["max_error"] < 0.02 * document["largest_logit"]
    # What `export` wrote is one pass with a mean in eighths; the other two are other graphs.
    told = rounded.keys() - {"name", "digest"}
    assert {name: eighths[name] for name in told} == {name: rounded[name] for name in told}
    assert whole["rms_error"] != eighths["rms_error"] != plain["rms_error"]
