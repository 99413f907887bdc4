"""Profiles for the pictures that there are: all fit, the frequent ones at their optimum."""

from collections import Counter
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from fcn_deploy.core.errors import ImageError, InputError
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.graph.cost import PeakBytes, peak_bytes
from fcn_deploy.tensorrt.profiles import MOST_PROFILES, choices, choose, engine_bytes, picture_sizes
from tests.command_line import FcnDeploy, refused
from tests.conftest import WriteVocFolder

_SIZE = st.tuples(st.integers(1, 300), st.integers(1, 300))
SIZES = st.dictionaries(_SIZE, st.integers(1, 50), min_size=1, max_size=12).map(Counter)
FEW_SIZES = st.dictionaries(_SIZE, st.integers(1, 50), min_size=1, max_size=8).map(Counter)


def pixels(shape: BatchShape) -> int:
    images, height, width = shape
    return 3 * images * height * width


@given(SIZES, st.integers(1, 8))
def test_every_picture_fits_every_choice(sizes: Counter[tuple[int, int]], batch: int) -> None:
    found = choices(sizes, pixels, batch=batch)
    assert [len(choice.profiles) for choice in found] == [
        *range(1, min(len(sizes), MOST_PROFILES) + 1)
    ]
    for choice in found:
        for height, width in sizes:
            for images in (1, batch):
                shape = (images, height, width)
                assert any(profile.contains(shape) for profile in choice.profiles)
        tuned = {profile.typical[1:] for profile in choice.profiles}
        assert choice.at_optimum == sum(n for size, n in sizes.items() if size in tuned)
        assert choice.served == choice.at_optimum  # there is memory for all
        assert choice.mean_batch == batch
        assert choice.memory == max(pixels(profile.largest) for profile in choice.profiles)
    at_optimum = [choice.at_optimum for choice in found]
    assert at_optimum == sorted(at_optimum)
    if len(sizes) <= MOST_PROFILES:
        assert found[-1].static
        assert found[-1].at_optimum == sizes.total()


@given(FEW_SIZES, st.integers(1, 8), st.integers(1, 300_000))
def test_no_choice_exceeds_the_memory(
    sizes: Counter[tuple[int, int]], batch: int, limit: int
) -> None:
    if max(pixels((1, *size)) for size in sizes) > limit:
        with pytest.raises(InputError, match="--memory"):
            choices(sizes, pixels, batch=batch, limit=limit)
        return
    found = choices(sizes, pixels, batch=batch, limit=limit)
    assert found[-1].static  # each size for itself fits where any choice does
    for choice in found:
        assert choice.memory <= limit
        for profile in choice.profiles:
            images, height, width = profile.largest
            assert images == batch or pixels((images + 1, height, width)) > limit


def test_the_fewest_profiles_that_are_good_enough_are_chosen() -> None:
    most = Counter({(320, 480): 96, (480, 320): 3, (64, 64): 1})
    assert len(choose(choices(most, pixels)).profiles) == 1
    two = Counter({(320, 480): 60, (480, 320): 38, (64, 64): 2})
    chosen = choose(choices(two, pixels))
    assert [profile.typical for profile in chosen.profiles] == [(1, 320, 480), (1, 480, 320)]
    assert str(chosen.profiles[0]) == "1x64x64:1x320x480:1x320x480"
    many = Counter({(100 + n, 100): 1 for n in range(20)})
    assert len(choose(choices(many, pixels)).profiles) == MOST_PROFILES


def test_one_large_picture_does_not_take_the_batch_from_the_others() -> None:
    sizes = Counter({(320, 480): 97, (4000, 6000): 1})
    limit = pixels((1, 4000, 6000))  # of the large one, a single one fits
    one, two = found = choices(sizes, pixels, batch=8, limit=limit)
    assert (one.batches, two.batches) == ((1,), (8, 1))
    assert one.at_optimum == 97  # all but one run at their optimum, one by one
    assert (one.served, two.served) == (0, 98)
    assert one.mean_batch == 1
    assert two.mean_batch == pytest.approx((97 * 8 + 1) / 98)
    assert choose(found) is two
    # Where memory is no matter, one profile is enough.
    assert len(choose(choices(sizes, pixels, batch=8)).profiles) == 1


def test_sizes_are_read_from_pictures_and_from_voc_folders(
    tmp_path: Path, voc_folder: WriteVocFolder
) -> None:
    for number, size in enumerate([(30, 20), (30, 20), (8, 9)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    assert picture_sizes(tmp_path) == Counter({(20, 30): 2, (9, 8): 1})
    assert picture_sizes(voc_folder(train=3, val=2)) == Counter({(48, 64): 5})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError):
        picture_sizes(tmp_path / "empty")


def test_the_peak_is_what_is_alive_at_once() -> None:
    # x ─▶ a ─┬─▶ b ─▶ c ─┐      a lives until the sum reads it; the view of c takes no memory.
    #         └───────────┴─▶ sum
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "w"], ["c"]),
        helper.make_node("Identity", ["c"], ["view"]),
        helper.make_node("Add", ["a", "view"], ["sum"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["N", 10])],
        [value("sum", TensorProto.FLOAT, ["N", 10])],
        [helper.make_tensor("w", TensorProto.FLOAT, [1, 10], [1.0] * 10)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    # a, b, c are 4 pictures of 40 bytes each.
    assert peak_bytes(model, {"x": (4, 10)}) == PeakBytes(40, 3 * 160, 2 * 160)


@pytest.mark.parametrize("read_as_float_too", [False, True])
def test_what_is_only_quantized_takes_a_byte_a_value(read_as_float_too: bool) -> None:
    # x ─▶ a ─Q─▶ ─DQ─▶ b ─▶ sum of b and, where it is read as a float too, a
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["a_int"]),
        helper.make_node("DequantizeLinear", ["a_int", "scale", "zero"], ["a_again"]),
        helper.make_node("Relu", ["a_again"], ["b"]),
        helper.make_node("Add", ["b", "a" if read_as_float_too else "b"], ["sum"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["N", 100])],
        [value("sum", TensorProto.FLOAT, ["N", 100])],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("zero", TensorProto.INT8, [], [0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model)
    peak = peak_bytes(model, {"x": (1, 100)})
    # x and a at first; then a, its integers and b; then b and the sum (and a).
    assert peak.activations == (400 + 400 + 400 if read_as_float_too else 400 + 400)
    assert peak.edges == 800


def test_an_engine_takes_weights_activations_and_three_batches_in_flight(tiny_run: Path) -> None:
    model = onnx.load(tiny_run / "model.onnx")
    peak = peak_bytes(model, {"image": (2, 48, 64, 3)})
    assert peak.edges == 2 * 48 * 64 * (3 + 1)
    expected = peak.weights + peak.activations + 3 * peak.edges
    assert engine_bytes(model, (2, 48, 64)) == expected


def test_the_command_shows_the_choices_and_builds_nothing(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    for number, size in enumerate([(64, 48)] * 3 + [(48, 64)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    words = ("build", tiny_run, "--plan-from", tmp_path, "--out", tmp_path / "engines")
    shown = fcn_deploy(*words, "--memory", "2GiB", "--batch", "2", "--dry-run")
    assert shown.code == 0, shown.err
    assert "4 pictures of 2 sizes" in shown.out
    assert "75.0%" in shown.out
    assert "2 static" in shown.out
    assert "--profile 1x48x64:2x48x64:2x48x64" in shown.out
    assert not (tmp_path / "engines").exists()
    refused(fcn_deploy(*words, "--memory", "1MiB"), "picture of", "--memory")
    refused(fcn_deploy(*words, "--memory", "big"), "512MiB")
    refused(fcn_deploy(*words, "--profile", "1x8x8:1x8x8:1x8x8"), "--profile")
    refused(fcn_deploy("build", tiny_run, "--dry-run"), "--plan-from")
