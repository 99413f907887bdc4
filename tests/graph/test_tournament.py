"""A tournament of the classes gives what the argmax gives, whatever the numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.data.scenes.render import draw_scene
from fcn_deploy.graph.cost import graph_cost
from fcn_deploy.graph.int8_for_ort_cpu import for_onnx_runtime_cpu
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.nodes import opset_of
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.graph.quantize import chosen_convolutions, quantized_onnx
from fcn_deploy.graph.session import cpu_session
from fcn_deploy.graph.tournament import Tournament, tournament_of, with_tournament
from tests.onnx_outputs import outputs_of

#: Classes and pixels of a cell.
CASES = [(2, 64), (2, 1024), (21, 64), (21, 1024), (150, 64)]


def argmax_over(
    classes: int, pixels: int, *, opset: int = 20, element: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """The part of early argmax that finds the classes: cells → their indices, as floats."""
    shape = numpy_helper.from_array(np.array([0, 0, 0, classes, pixels], np.int64), "shape")
    nodes = [
        helper.make_node("Reshape", ["cells", "shape"], ["by_class"], name="tail.Reshape"),
        helper.make_node("ArgMax", ["by_class"], ["found"], name="tail.ArgMax", axis=3, keepdims=0),
        helper.make_node("Cast", ["found"], ["index"], name="tail.Cast", to=TensorProto.FLOAT),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "argmax",
        [value("cells", element, ["N", "h", "w", classes * pixels])],
        [value("index", TensorProto.FLOAT, ["N", "h", "w", pixels])],
        [shape],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def whole_numbers(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Few values, so that many are the largest at once."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("element", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize(("classes", "pixels"), CASES)
def test_the_first_of_the_largest_wins(classes: int, pixels: int, element: int, opset: int) -> None:
    model = argmax_over(classes, pixels, opset=opset, element=element)
    changed = with_tournament(model)
    onnx.checker.check_model(changed, full_check=True)
    assert not {"ArgMax", "TopK"} & {node.op_type for node in changed.graph.node}
    assert opset_of(changed) == opset
    cells = whole_numbers(2, 3, 2, classes * pixels)
    typed = cells.astype(helper.tensor_dtype_to_np_dtype(element))
    by_class = cells.reshape(2, 3, 2, classes, pixels)
    expected = by_class.argmax(axis=3)
    ties = (by_class == by_class.max(axis=3, keepdims=True)).sum(axis=3)
    assert ties.max() > 1
    for given_by in (model, changed):
        np.testing.assert_array_equal(outputs_of(given_by, cells=typed)["index"], expected)


@given(
    classes=st.integers(2, 256),
    pixels=st.sampled_from([1, 4, 16]),
    grid=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)),
    values=st.sampled_from([1, 4, 1000]),
)
@settings(max_examples=25)
def test_any_class_count_and_grid(
    classes: int, pixels: int, grid: tuple[int, int, int], values: int
) -> None:
    generator = np.random.default_rng(classes * 100 + pixels)
    cells = generator.integers(0, values, (*grid, classes * pixels)).astype(np.float32)
    changed = with_tournament(argmax_over(classes, pixels))
    expected = cells.reshape(*grid, classes, pixels).argmax(axis=3)
    np.testing.assert_array_equal(outputs_of(changed, cells=cells)["index"], expected)


def test_numbers_that_are_none_lose_but_in_the_first_class() -> None:
    nan, infinite = np.nan, np.inf
    pixels = np.array(
        [
            [nan, 1, 2, 0],  # nothing is greater than the first
            [0, nan, 2, 1],
            [5, nan, nan, nan],
            [nan, nan, nan, nan],
            [-infinite, -infinite, nan, 3],
            [infinite, infinite, 0, nan],
            [-0.0, 0.0, -1, -1],  # equal
        ],
        np.float32,
    )
    cells = np.ascontiguousarray(pixels.T).reshape(1, 1, 1, -1)
    model = argmax_over(4, len(pixels))
    index = outputs_of(with_tournament(model), cells=cells)["index"].ravel()
    np.testing.assert_array_equal(index, [0, 2, 0, 0, 3, 0, 0])
    np.testing.assert_array_equal(outputs_of(model, cells=cells)["index"].ravel(), index)


def test_the_graph_is_not_changed_and_its_choice_is_found() -> None:
    model = argmax_over(5, 4)
    before = model.SerializeToString()
    changed = with_tournament(model)
    assert model.SerializeToString() == before
    assert tournament_of(model.graph) is None
    assert tournament_of(changed.graph) == Tournament("cells", "index")
    names = [node.name for node in changed.graph.node]
    assert len(set(names)) == len(names)
    assert all(name.startswith("tail.") for name in names)
    operators = [node.op_type for node in changed.graph.node]
    # The last class's logit is kept for nobody.
    assert operators == ["Split", *["Greater", "Where", "Where"] * 3, "Greater", "Where"]


@pytest.mark.parametrize("changed", ["number", "greater", "order"])
def test_another_chain_of_comparisons_is_no_tournament(changed: str) -> None:
    graph = with_tournament(argmax_over(4, 4)).graph
    nodes = {node.name: node for node in graph.node}
    if changed == "number":
        nodes["tail.Index_2"].input[1] = "tail.class_3.index"
    elif changed == "greater":
        nodes["tail.Greater_2"].op_type = "Less"
    else:
        best = nodes["tail.Best_1"].input
        best[1], best[2] = best[2], best[1]
    assert tournament_of(graph) is None


def test_another_argmax_is_refused(one_line: Callable[[Exception], str]) -> None:
    late = argmax_over(4, 4)
    late.graph.node[1].attribute[0].i = 1
    counted = argmax_over(4, 4)
    counted.graph.node[2].attribute[0].i = TensorProto.INT32
    none = argmax_over(4, 4)
    none.graph.node[1].op_type = "ArgMin"
    last = argmax_over(4, 4)
    last.graph.node[1].attribute.append(helper.make_attribute("select_last_index", 1))
    for model, words in (
        (late, "does not take the argmax early"),
        (last, "does not take the argmax early"),
        (counted, "class indices are not cast to floats"),
        (none, "expected one ArgMax in the graph, found 0"),
    ):
        with pytest.raises(OnnxFileError, match=words) as caught:
            with_tournament(model)
        one_line(caught.value)


@pytest.fixture(scope="module")
def whole(tiny_run: Path) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """An exported file, and the same with a tournament."""
    model = OnnxFile(tiny_run / "model.onnx").model
    return model, with_tournament(model)


@pytest.mark.slow
@given(height=st.integers(1, 70), width=st.integers(1, 70), batch=st.integers(1, 2))
@settings(max_examples=12)
def test_masks_of_a_whole_file_are_equal(
    whole: tuple[onnx.ModelProto, onnx.ModelProto], height: int, width: int, batch: int
) -> None:
    images = np.random.default_rng(height).integers(
        0, 256, (batch, height, width, 3), dtype=np.uint8
    )
    early, tournament = (outputs_of(with_logits(model), image=images) for model in whole)
    assert early.keys() == tournament.keys() == {"mask", "logits"}
    for name, expected in early.items():
        assert tournament[name].dtype == expected.dtype
        np.testing.assert_array_equal(tournament[name], expected)


def test_what_it_costs_by_the_count(
    whole: tuple[onnx.ModelProto, onnx.ModelProto], tiny_run: Path
) -> None:
    early, tournament = (graph_cost(model, {"image": (1, 64, 96, 3)}) for model in whole)
    classes = OnnxFile(tiny_run / "model.onnx").metadata.spec.num_classes
    # Split in place of Reshape, ArgMax and Cast; three nodes for each class but the first.
    assert tournament.nodes == early.nodes - 3 + 1 + 3 * (classes - 1) - 1
    assert tournament.bytes_moved > early.bytes_moved
    assert chosen_convolutions(whole[0]) == chosen_convolutions(whole[1])


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 20])
def test_an_int8_file_with_a_tournament_gives_the_same_masks(
    tiny_opsets: dict[int, Path], opset: int, tmp_path: Path
) -> None:
    early = OnnxFile(tiny_opsets[opset])
    path = tmp_path / "tournament.onnx"
    onnx.save(with_tournament(early.model), path)
    pictures = [draw_scene(0, index, (48 + 8 * index, 64))[0] for index in range(3)]
    sessions = []
    for name, file in (("early", early), ("tournament", OnnxFile(path))):
        written = quantized_onnx(file, tmp_path / f"{name}.int8.onnx", iter(pictures), threads=1)
        model = onnx.load(written.path)
        assert (tournament_of(model.graph) is None) == (name == "early")
        # As written, and as ONNX Runtime's CPU provider is given it.
        sessions += [
            cpu_session(graph.SerializeToString(), 1)
            for graph in (model, for_onnx_runtime_cpu(model))
        ]
    for shape in ((1, 1), (33, 70), (97, 131)):
        images = draw_scene(1, 0, shape)[0][None]
        masks = [session.run(["mask"], {"image": images})[0] for session in sessions]
        np.testing.assert_array_equal(masks[0], masks[2])
        np.testing.assert_array_equal(masks[1], masks[3])
