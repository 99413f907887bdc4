"""Networks from Python: what is built, what is refused, what becomes of any size."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fcn_deploy.core.code_trust import code_is_trusted, trusting_code
from fcn_deploy.core.errors import ArchitectureError, CheckpointError
from fcn_deploy.core.spec import ModelSpec, Tail
from fcn_deploy.networks.architectures import build_model, with_output_stride
from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint
from fcn_deploy.networks.deploy_graph import DeployGraph, DeployModel, Normalise, SubtractMean
from fcn_deploy.networks.python_networks import (
    PythonNetwork,
    build_python_network,
    try_python_network,
)
from fcn_deploy.networks.python_recipe import PythonRecipe, value_of
from fcn_deploy.networks.python_weights import stored_architecture
from tests.random_network import random_network

OneLine = Callable[[Exception], str]
TINY = "python:tests.factories:Tiny?weights=none"


def built(name: str, num_classes: int | None = 3) -> PythonNetwork:
    with trusting_code(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_python_network(name, num_classes)


def test_a_recipe_is_its_name_and_back() -> None:
    recipe = PythonRecipe.from_name("python:a.b:C.d").with_options(
        ["name=a & b=c?", "sizes=[1, 2]", "empty="], 32
    )
    assert recipe.name == (
        "python:a.b:C.d?name=a+%26+b%3Dc%3F&sizes=%5B1%2C+2%5D&empty=&multiple-of=32"
    )
    assert PythonRecipe.from_name(recipe.name) == recipe
    assert PythonRecipe.from_name("python:a:b").name == "python:a:b"
    values = {"1": 1, "0.5": 0.5, "none": None, "None": None, "True": True, "false": False}
    values |= {"resnet18": "resnet18", '"1"': "1", "[1, 2]": [1, 2]}
    assert {text: value_of(text) for text in values} == values


@pytest.mark.parametrize(
    "name",
    ["python:", "python:a", "python:a:", "python:a b:c", "python:a:b?1x=2", "python:a:b?c=1&c=2",
     "python:a:b?multiple-of=0", "python:a:b?multiple-of=x", "a:b", "python:../a:b"],
)  # fmt: skip
def test_what_is_no_recipe_is_refused(name: str, one_line: OneLine) -> None:
    with pytest.raises(ArchitectureError) as caught:
        PythonRecipe.from_name(name)
    one_line(caught.value)


def test_no_code_is_imported_unasked(one_line: OneLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tests.factories", raising=False)
    with pytest.raises(ArchitectureError, match="--trust-code") as caught:
        build_model(TINY, 3)
    one_line(caught.value)
    assert "tests.factories" not in sys.modules
    with trusting_code():
        assert code_is_trusted()
        build_model(TINY, 3)
    assert not code_is_trusted()


@pytest.mark.parametrize("form", ["tensor", "tuple", "out", "logits"])
@pytest.mark.parametrize(("stride", "multiple_of"), [(1, 1), (4, 1), (1, 8), (4, 8)])
def test_any_size_goes_in_and_comes_out(form: str, stride: int, multiple_of: int) -> None:
    query = f"&form={form}&stride={stride}&multiple_of={multiple_of}&multiple-of={multiple_of}"
    network = built(TINY + query)
    assert network.training
    assert network.whole == (stride == 1)
    network.eval()
    for height, width in [(1, 1), (31, 33), (64, 96)]:
        assert network(torch.rand(2, 3, height, width)).shape == (2, 3, height, width)


def test_padding_is_the_means_colour_at_the_right_and_at_the_bottom() -> None:
    network = built(f"{TINY}&multiple_of=8&multiple-of=8").eval()
    image = torch.rand(1, 3, 13, 21)
    larger = torch.zeros(1, 3, 16, 24)
    larger[:, :, :13, :21] = image
    assert torch.equal(network(image), network.network(larger)[:, :, :13, :21])


def test_small_logits_are_stretched_over_the_padded_image() -> None:
    network = built(f"{TINY}&stride=4&multiple-of=8").eval()
    image = torch.rand(1, 3, 13, 21)
    small = network.network(nn.functional.pad(image, (0, 3, 0, 3)))
    assert small.shape == (1, 3, 4, 6)
    stretched = nn.functional.interpolate(small, scale_factor=4, mode="bilinear")
    torch.testing.assert_close(network(image), stretched[:, :, :13, :21])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python:no_such_module.inner:make", ("no module no_such_module", "PYTHONPATH")),
        ("python:tests.no_such:make", ("no module tests.no_such",)),
        ("python:tests.factories:missing", ("has no missing",)),
        ("python:tests.factories:annotations", ("no class or function",)),
        ("python:tests.factories:broken", ("raised ValueError: an encoder is missing", "--arg")),
        ("python:tests.factories:text", ("gives str", "torch.nn.Module")),
        ("python:tests.factories:Tiny", ("raised OSError: no network", "--arg")),
        ("python:tests.factories:classifier", ("not class scores [N, C, h, w]",)),
        (f"{TINY}&form=other", ("dictionary with out or logits",)),
        (f"{TINY}&multiple_of=8", ("no image of 97×131", "sizes must fit", "--multiple-of 8")),
        (f"{TINY}&num_classes=300", ("gives 300 classes", "2 to 256")),
        (f"{TINY}&num_classes=1", ("gives 1 classes", "background")),
        (f"{TINY}&no_such=1", ("raised TypeError", "no_such")),
        ("python:tests.factories:Odd?kind=exits", ("raised SystemExit", "--arg")),
        ("python:tests.factories:Odd?kind=pooled", ("do not lie over the image",)),
        ("python:tests.factories:Odd?kind=flat", ("64×48 for 64×96",)),
    ],
)  # fmt: skip
def test_what_is_no_segmentation_network_is_refused(
    name: str, words: tuple[str, ...], one_line: OneLine
) -> None:
    with pytest.raises(ArchitectureError) as caught:
        built(name, None)
    text = one_line(caught.value)
    for word in words:
        assert word in text, text


def test_what_code_of_others_changes_of_pytorch_is_put_back() -> None:
    built("python:tests.factories:Odd?kind=doubles", None)
    assert torch.get_default_dtype() is torch.float32


def test_networks_that_round_sizes_up_are_stretched() -> None:
    assert not built("python:tests.factories:Odd?kind=rounds+up", None).whole


def test_another_number_of_classes_is_refused(one_line: OneLine) -> None:
    assert built(TINY, 7).num_classes == 7
    with pytest.raises(ArchitectureError, match="5 classes, not 7; drop --arg num_classes"):
        built(f"{TINY}&num_classes=5", 7)
    with pytest.raises(ArchitectureError, match="3 classes, not 7; give it the number") as caught:
        built("python:tests.factories:tiny", 7)
    one_line(caught.value)


def test_a_network_is_tried_before_the_number_of_classes_is_known() -> None:
    lonely = "python:tests.factories:one_class"
    with trusting_code():
        try_python_network(lonely)
        try_python_network(f"{lonely}?num_classes=3")
        with pytest.raises(ArchitectureError, match="holds 2 to 256"):
            build_python_network(lonely, None)
        with pytest.raises(ArchitectureError, match="holds 2 to 256"):
            try_python_network(f"{lonely}?num_classes=1")
    with pytest.raises(ArchitectureError, match="no code is imported unasked"):
        try_python_network(lonely)


def test_a_checkpoint_builds_its_network_without_fetching(tmp_path: Path) -> None:
    network = built(f"{TINY}&stride=2&multiple-of=4")
    # The library's default would fetch; typed or not, what is stored does not.
    stored = "python:tests.factories:Tiny?stride=2&weights=none&multiple-of=4"
    with trusting_code():
        name = stored_architecture("python:tests.factories:Tiny?stride=2&multiple-of=4", network, 3)
    assert name == stored
    _, spec = random_network("fcn32s-resnet18")
    spec = ModelSpec(stored, spec.class_names[:3], spec.palette[:3], spec.image_sizes)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, spec)
    with pytest.raises(CheckpointError, match="--trust-code"):
        load_checkpoint(path)
    with trusting_code():
        loaded = load_checkpoint(path)
    image = torch.rand(1, 3, 9, 10)
    assert torch.equal(loaded.model(image), network.eval()(image))


def test_tied_weights_are_saved_twice(tmp_path: Path) -> None:
    network = built(TINY)
    _, spec = random_network("fcn32s-resnet18")
    network.network.add_module("again", network.network.get_submodule("head"))
    save_checkpoint(tmp_path / "model.safetensors", network, spec)
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("query", "divided", "tail"),
    [
        ("", True, Tail.CROP),
        ("&stride=4&multiple-of=8", True, Tail.RESIZE),
        ("&multiple-of=8", True, Tail.CROP),
        # It looks at the image a second time, which must then be divided itself.
        ("&own_mean=true", False, Tail.CROP),
    ],
)
def test_the_deviation_goes_where_one_convolution_reads_the_image(
    query: str, divided: bool, tail: Tail
) -> None:
    network = built(TINY + query).eval()
    _, spec = random_network("fcn32s-resnet18")
    spec = ModelSpec(TINY, spec.class_names[:3], spec.palette[:3], spec.image_sizes)
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    graph = DeployGraph(network, spec, ("mask", "logits"))
    assert graph.tail_form is tail
    assert isinstance(graph.subtract_mean, SubtractMean if divided else Normalise)
    assert all(torch.equal(kept[name], tensor) for name, tensor in network.state_dict().items())
    image = torch.randint(0, 256, (2, 21, 30, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = DeployModel(network, spec, ("mask", "logits"))(image)
        given = graph(image)
    torch.testing.assert_close(given[1], expected[1], atol=1e-4, rtol=1e-4)


def test_an_output_stride_is_its_librarys_business() -> None:
    with pytest.raises(ArchitectureError, match="drop --output-stride"):
        with_output_stride(TINY, 8)
