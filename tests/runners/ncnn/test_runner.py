"""ncnn: the contract, masks equal to ONNX Runtime's, and how a graph is split between the two."""

import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError, MissingExtraError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.runners.base import Outputs, Runner, open_runner, takes, unavailable_reason
from fcn_deploy.runners.cpu_streams import LANES
from fcn_deploy.runners.ncnn.runner import NcnnRunner, _Network
from fcn_deploy.runners.ncnn.split import split_graph
from tests.runners.contract import LanesContract, RunnerContract, assert_masks_agree, pictures

ncnn = pytest.importorskip("ncnn")


class TestNcnnRunner(RunnerContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "ncnn", outputs=outputs, threads=1)


class TestNcnnRunnerInLanes(LanesContract):
    def open(self, outputs: tuple[str, ...]) -> Runner:
        return open_runner(self.run_directory, "ncnn", outputs=outputs, threads=LANES)

    def fail_at(self, width: int, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
        super().fail_at(width, runner, monkeypatch)
        assert isinstance(runner, NcnnRunner)
        network = runner._network_of_lanes()
        compute = network.run

        def failing(images: NDArray[np.uint8]) -> Outputs:
            if images.shape[2] == width:
                raise RuntimeError("out of luck")
            return compute(images)

        monkeypatch.setattr(network, "run", failing)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 97, 131), (1, 160, 120)])
def test_masks_equal_those_of_ort_where_they_are_decided(
    tiny_run: Run, shape: tuple[int, int, int]
) -> None:
    with (
        open_runner(tiny_run, "ort", outputs=("logits",)) as reference,
        open_runner(tiny_run, "ncnn", outputs=("mask", "logits")) as candidate,
    ):
        assert_masks_agree(reference, candidate, pictures(*shape), least=0, most=2e-5)


def test_a_picture_does_not_depend_on_its_place_in_the_batch(tiny_run: Run) -> None:
    images = pictures(3, 40, 56)
    with open_runner(tiny_run, "ncnn", outputs=("logits",)) as runner:
        together = runner.run(images).logits
        alone = [runner.run(image[None]).logits for image in images]
    assert together is not None
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_threads_of_the_two_libraries_do_not_fight(tiny_run: Run) -> None:
    """A pool that spins after its part takes ncnn's cores, and a picture 1.6 times as long."""
    with open_runner(tiny_run, "ncnn", threads=2) as runner:
        assert isinstance(runner, NcnnRunner)
        networks = runner._network, runner._network_of_lanes()
        sessions = [s for network in networks if network for s in (network._head, network.rest)]
        options = [session.get_session_options() for session in sessions]
    assert [o.get_session_config_entry("session.intra_op.allow_spinning") for o in options] == [
        "0"
    ] * 4


def test_the_description_says_what_computes(tiny_run: Run) -> None:
    with open_runner(tiny_run, "ncnn", threads=1) as runner:
        description = runner.describe()
    assert (description.backend, description.device) == ("ncnn", "cpu")
    assert (description.precision, description.threads) == ("fp32", 1)
    assert description.library.startswith("ncnn 1.0.20")
    assert "ends in ONNX Runtime" in description.library
    assert description.digest == file_digest(tiny_run.onnx(Precision.FP32))


def test_half_files_and_gpus_are_refused(tiny_run: Run) -> None:
    assert [p.value for p in Precision if takes("ncnn", p)] == ["fp32"]
    with pytest.raises(BackendError, match="does not take fp16 files; drop --fp16"):
        open_runner(tiny_run, "ncnn", precision=Precision.FP16)
    with pytest.raises(BackendError, match="does not take fp16 files"):
        open_runner(tiny_run.onnx(Precision.FP16), "ncnn")
    with pytest.raises(BackendError, match=r"runs on the CPU.*drop --device cuda"):
        open_runner(tiny_run, "ncnn", device="cuda")


@pytest.mark.parametrize("package", ["ncnn", "onnxruntime"])
def test_without_a_package_its_installation_is_named(
    monkeypatch: pytest.MonkeyPatch, tiny_run: Run, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'fcn-deploy[ncnn]'" in str(unavailable_reason("ncnn"))
    with pytest.raises(MissingExtraError, match=f"backend ncnn needs {package}, .*; pip"):
        open_runner(tiny_run, "ncnn")


@pytest.fixture
def model(tiny_run: Run) -> onnx.ModelProto:
    return OnnxFile(tiny_run.onnx(Precision.FP32)).model


class TestSplitGraph:
    def test_ncnn_takes_all_convolutions_but_those_of_the_ends(
        self, model: onnx.ModelProto
    ) -> None:
        graph = split_graph(model)
        kinds = [line.split()[0] for line in graph.param.splitlines()[2:]]
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        kept = {
            part.graph.name: [
                (node.op_type, list(onnx.helper.get_node_attr_value(node, "kernel_shape")))
                for node in part.graph.node
                if node.op_type in ("Conv", "MaxPool")
            ]
            for part in (graph.head, graph.rest)
        }
        assert kept == {"head": [("Conv", [7, 7]), ("MaxPool", [3, 3])], "rest": [("Conv", [2, 2])]}
        assert kinds.count("Convolution") == len(convolutions) - 2
        assert len(graph.seam) == 1

    def test_the_text_counts_layers_and_blobs(self, model: onnx.ModelProto) -> None:
        magic, counts, *layers = split_graph(model).param.splitlines()
        assert magic == "7767517"  # of ncnn's text format
        blobs: set[str] = set()
        for line in layers:
            words = line.split()
            inputs, outputs = int(words[2]), int(words[3])
            assert blobs.issuperset(words[4 : 4 + inputs])  # given before it is read
            blobs.update(words[4 + inputs : 4 + inputs + outputs])
        assert counts.split() == [str(len(layers)), str(len(blobs))]

    def test_the_text_says_how_large_maps_usually_are(self, model: onnx.ModelProto) -> None:
        said: dict[str, list[int]] = {}
        for line in split_graph(model, typical_size=(97, 131)).param.splitlines()[2:]:
            words = line.split()
            inputs, outputs = int(words[2]), int(words[3])
            count, *numbers = (int(n) for n in words[-1].removeprefix("-23330=").split(","))
            assert count == len(numbers) == 4 * outputs
            for place, blob in enumerate(words[4 + inputs : 4 + inputs + outputs]):
                dimensions, width, height, channels = numbers[4 * place : 4 * place + 4]
                assert dimensions == 3
                said[blob.partition(":")[0]] = [1, channels, height, width]
        for name in said:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        maps = session.run(list(said), {"image": pictures(1, 97, 131)})
        assert said == {name: list(array.shape) for name, array in zip(said, maps, strict=True)}

    def test_any_size_is_computed_whatever_the_text_says(self, model: onnx.ModelProto) -> None:
        networks = [
            _Network(split_graph(model, typical_size=size), threads=1, session_threads=1)
            for size in ((64, 64), (1024, 2048))
        ]
        rounded_otherwise = []
        for shape in ((1, 97, 131), (2, 1, 1), (1, 320, 480)):
            (one,), (other,) = (network.seam(pictures(*shape)).values() for network in networks)
            np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
            rounded_otherwise.append(not np.array_equal(one, other))
        # That ncnn reads it: the two chose other filterings.  On other CPUs it may choose the same.
        assert any(rounded_otherwise) or platform.machine() not in ("x86_64", "AMD64")

    def test_without_sizes_nothing_is_said(self, model: onnx.ModelProto) -> None:
        assert "-23330=" not in split_graph(model).param

    def test_the_runner_says_the_typical_size_of_the_training_pictures(
        self, model: onnx.ModelProto, tiny_run: Run
    ) -> None:
        with open_runner(tiny_run, "ncnn") as runner:
            assert isinstance(runner, NcnnRunner)
            typical = runner.spec.image_sizes.typical
            assert runner._graph.param == split_graph(model, typical_size=typical).param

    def test_the_ends_are_sound_models(self, model: onnx.ModelProto) -> None:
        before = model.SerializeToString()
        graph = split_graph(model)
        assert model.SerializeToString() == before
        for part, reads, gives in (
            (graph.head, ["image"], [graph.entry]),
            (graph.rest, ["image", *graph.seam], ["mask"]),
        ):
            onnx.checker.check_model(part, full_check=True)
            assert [value.name for value in part.graph.input] == reads
            assert [value.name for value in part.graph.output] == gives

    def test_who_asks_for_a_size_or_reads_nothing_of_the_head_does_not_count(
        self, model: onnx.ModelProto
    ) -> None:
        pooled = next(node for node in model.graph.node if node.op_type == "MaxPool")
        pixels = next(node for node in model.graph.node if node.op_type == "Sub")
        place = list(model.graph.node).index(pooled)
        for reads in (["image"], list(pixels.output)):  # as torchvision's FCNs do, before the body
            size = onnx.helper.make_node("Shape", reads, [f"size:{reads[0]}"], name=f"{reads[0]}:s")
            model.graph.node.insert(place, size)
            value = onnx.helper.make_tensor_value_info(size.output[0], onnx.TensorProto.INT64, [4])
            model.graph.output.append(value)
        assert split_graph(model).entry == pooled.output[0]

    def test_a_tensor_that_goes_past_the_head_is_where_it_ends(
        self, model: onnx.ModelProto
    ) -> None:
        pixels = next(node for node in model.graph.node if node.op_type == "Sub")
        model.graph.node.append(onnx.helper.make_node("Relu", pixels.output, ["past"], name="past"))
        assert split_graph(model).entry == pixels.output[0]

    def test_a_graph_without_one_path_to_such_a_layer_is_refused(
        self, model: onnx.ModelProto
    ) -> None:
        cast = model.graph.node[0]
        shown = onnx.helper.make_tensor_value_info(cast.output[0], onnx.TensorProto.FLOAT, None)
        model.graph.output.append(shown)  # read behind every place to split
        with pytest.raises(OnnxFileError, match="no single path"):
            split_graph(model)
        del model.graph.output[-1]
        split_graph(model)
        for node in model.graph.node:
            if node.op_type == "Conv":
                node.op_type = "ConvInteger"
        with pytest.raises(OnnxFileError, match="no single path"):
            split_graph(model)


def changed(model: onnx.ModelProto, name: str, values: NDArray[Any]) -> None:
    """Put other values in an initializer's place."""
    for entry in model.graph.initializer:
        if entry.name == name:
            entry.CopyFrom(onnx.numpy_helper.from_array(values, name))


class TestWeightsThatDoNotFit:
    """ncnn reads as many bytes as the layers' text makes it, wherever the weights end."""

    @pytest.fixture
    def layer(self, model: onnx.ModelProto) -> onnx.NodeProto:
        """A convolution that ncnn computes, with biases, behind another one."""
        named = split_graph(model).param
        nodes = [n for n in model.graph.node if n.op_type == "Conv" and f" {n.name} " in named]
        if len(nodes[1].input) == 2:
            filters = next(e for e in model.graph.initializer if e.name == nodes[1].input[1])
            biases = np.zeros(filters.dims[0], np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(biases, "biases"))
            nodes[1].input.append("biases")
        return nodes[1]

    @pytest.fixture
    def weights(self, model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
        return {e.name: onnx.numpy_helper.to_array(e) for e in model.graph.initializer}

    @pytest.mark.parametrize(
        ("place", "damage", "refusal"),
        [
            (2, lambda b: b[:1], "the biases of"),
            (2, lambda b: b[:0], "the biases of"),
            (2, lambda b: b[None], "the biases of"),
            (2, lambda b: b.astype(np.float64), "the biases of"),
            (1, lambda w: w[:, :, :2], "the filters of"),
            (1, lambda w: w.astype(np.float64), "the filters of"),
            (1, lambda w: w.reshape(-1), "the filters of"),
            (1, lambda w: w[:, 1:], "the channels at"),
            (1, lambda w: np.concatenate([w, w], axis=1), "the channels at"),
            (1, lambda w: w[:-1], "the biases of"),
        ],
    )
    def test_biases_and_filters(
        self,
        model: onnx.ModelProto,
        layer: onnx.NodeProto,
        weights: dict[str, NDArray[Any]],
        place: int,
        damage: Callable[[NDArray[Any]], NDArray[Any]],
        refusal: str,
    ) -> None:
        name = layer.input[place]
        changed(model, name, np.ascontiguousarray(damage(weights[name])))
        with pytest.raises(OnnxFileError, match=refusal) as refused:
            split_graph(model)
        assert refusal == "the channels at" or layer.name in str(refused.value)

    def test_names(self, model: onnx.ModelProto, layer: onnx.NodeProto) -> None:
        for name in ("", "two words", "x" * 300):
            layer.name = name
            with pytest.raises(OnnxFileError, match="for a name"):
                split_graph(model)

    def test_windows_that_cannot_be_written_stay_in_onnx_runtime(
        self, model: onnx.ModelProto, layer: onnx.NodeProto
    ) -> None:
        assert f" {layer.name} " in split_graph(model).param
        for attribute in layer.attribute:
            if attribute.name == "auto_pad":
                attribute.s = b"SAME_UPPER"
        assert f" {layer.name} " not in split_graph(model).param

    def test_a_first_part_of_other_channels(self, model: onnx.ModelProto) -> None:
        graph = split_graph(model)
        assert graph.channels
        network = _Network(replace(graph, channels=graph.channels + 1), 1, 1)
        with pytest.raises(OnnxFileError, match="channels, not"):
            network.seam(pictures(1, 8, 8))

    def test_the_runner_refuses_such_a_file(
        self,
        model: onnx.ModelProto,
        layer: onnx.NodeProto,
        weights: dict[str, NDArray[Any]],
        tmp_path: Path,
    ) -> None:
        changed(model, layer.input[2], weights[layer.input[2]][:1])
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(OnnxFileError):
            open_runner(tmp_path / "model.onnx", "ncnn", threads=1)


def test_layers_that_ncnn_refuses_are_an_error(
    tiny_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.runners.ncnn.split._MAGIC", 1)
    with pytest.raises(OnnxFileError, match="ncnn refuses"):
        open_runner(tiny_run, "ncnn")
