"""The spec is stored in every file, so it must come back as it was or be refused in words."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    MAX_CLASSES,
    OUTPUT_NAMES,
    ModelSpec,
    SizeRange,
    ordered_outputs,
)

OneLine = Callable[[Exception], str]

sizes = st.tuples(st.integers(1, 10_000), st.integers(1, 10_000))
colours = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
triples = st.tuples(*[st.floats(0.01, 1)] * 3)


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    count = draw(st.integers(2, 30))
    return ModelSpec(
        architecture=draw(st.text(min_size=1)),
        class_names=tuple(draw(st.lists(st.text(), min_size=count, max_size=count))),
        palette=tuple(draw(st.lists(colours, min_size=count, max_size=count))),
        image_sizes=SizeRange(draw(sizes), draw(sizes), draw(sizes)),
        mean=draw(triples),
        std=draw(triples),
    )


@given(spec=specs())
def test_json_goes_there_and_back(spec: ModelSpec) -> None:
    text = spec.to_json()
    assert "\n" not in text
    assert ModelSpec.from_json(text) == spec
    assert hash(ModelSpec.from_json(text)) == hash(spec)
    assert ModelSpec.from_json(text).num_classes == len(spec.class_names)


def test_the_default_statistics_are_imagenets(tiny_spec: ModelSpec) -> None:
    assert tiny_spec.mean == IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert tiny_spec.std == IMAGENET_STD == (0.229, 0.224, 0.225)


def test_a_spec_cannot_be_changed(tiny_spec: ModelSpec) -> None:
    with pytest.raises(FrozenInstanceError):
        tiny_spec.architecture = "another"  # type: ignore[misc]


def with_classes(count: int, tiny_spec: ModelSpec) -> ModelSpec:
    return ModelSpec(
        architecture=tiny_spec.architecture,
        class_names=tuple(f"class {index}" for index in range(count)),
        palette=((0, 0, 0),) * count,
        image_sizes=tiny_spec.image_sizes,
    )


@pytest.mark.parametrize("count", [0, 1, MAX_CLASSES + 1])
def test_too_few_and_too_many_classes(count: int, tiny_spec: ModelSpec, one_line: OneLine) -> None:
    with pytest.raises(ArtifactError, match="2 to 256 classes") as caught:
        with_classes(count, tiny_spec)
    assert str(count) in one_line(caught.value)


@pytest.mark.parametrize("count", [2, MAX_CLASSES])
def test_the_fewest_and_the_most_classes(count: int, tiny_spec: ModelSpec) -> None:
    assert with_classes(count, tiny_spec).num_classes == count


def test_a_colour_for_every_class(tiny_spec: ModelSpec, one_line: OneLine) -> None:
    with pytest.raises(ArtifactError, match="5 classes but 4") as caught:
        ModelSpec(
            tiny_spec.architecture,
            tiny_spec.class_names,
            tiny_spec.palette[:4],
            tiny_spec.image_sizes,
        )
    one_line(caught.value)


def test_a_newer_schema_is_named(tiny_spec: ModelSpec, one_line: OneLine) -> None:
    newer = {**json.loads(tiny_spec.to_json()), "schema": 2}
    with pytest.raises(ArtifactError, match="schema 2") as caught:
        ModelSpec.from_json(json.dumps(newer))
    assert caught.value.repair
    one_line(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "3", "[]", '"text"', "{}", '{"schema": 1}', "\x00"]
)
def test_text_that_is_no_spec(text: str, one_line: OneLine) -> None:
    with pytest.raises(ArtifactError, match="spec") as caught:
        ModelSpec.from_json(text)
    one_line(caught.value)


FIELDS = ["architecture", "class_names", "palette", "image_sizes", "mean", "std", "schema"]
BAD_VALUES = [None, 3, [], {}, [[1, 2]], [1, "x", 3], [1, 2, 3, 4], float("inf"), [float("inf")]]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_that_is_missing(field: str, tiny_spec: ModelSpec, one_line: OneLine) -> None:
    fields = json.loads(tiny_spec.to_json())
    del fields[field]
    with pytest.raises(ArtifactError) as caught:
        ModelSpec.from_json(json.dumps(fields))
    assert field in one_line(caught.value)


@pytest.mark.parametrize("value", BAD_VALUES, ids=str)
@pytest.mark.parametrize("field", FIELDS[1:])
def test_a_field_of_another_kind(
    field: str, value: Any, tiny_spec: ModelSpec, one_line: OneLine
) -> None:
    fields = {**json.loads(tiny_spec.to_json()), field: value}
    with pytest.raises(ArtifactError) as caught:
        ModelSpec.from_json(json.dumps(fields))
    one_line(caught.value)


@pytest.mark.parametrize("colour", [[256, 0, 0], [0, -1, 0], [float("inf"), 0, 0]])
def test_a_colour_that_is_none(
    colour: list[float], tiny_spec: ModelSpec, one_line: OneLine
) -> None:
    fields = json.loads(tiny_spec.to_json())
    fields["palette"][2] = colour
    with pytest.raises(ArtifactError) as caught:
        ModelSpec.from_json(json.dumps(fields))
    one_line(caught.value)


@pytest.mark.parametrize(
    ("asked", "given_in_order"),
    [
        ([], ("mask",)),
        (["mask"], ("mask",)),
        (["margin"], ("mask", "margin")),
        (["margin", "logits", "mask", "margin"], OUTPUT_NAMES),
    ],
)
def test_outputs_come_in_the_graphs_order(
    asked: list[str], given_in_order: tuple[str, ...]
) -> None:
    assert ordered_outputs(asked) == given_in_order
    assert ordered_outputs(iter(asked)) == given_in_order


def test_an_unknown_output_lists_the_known(one_line: OneLine) -> None:
    with pytest.raises(InputError, match="'heat'") as caught:
        ordered_outputs(["mask", "heat"])
    assert "mask, logits, margin" in one_line(caught.value)
