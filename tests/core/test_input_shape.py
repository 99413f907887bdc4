"""InputShape: what a network takes, said, refused and stored."""

import pytest

from fcn_deploy.core.errors import BatchShapeError
from fcn_deploy.core.input_shape import ANY_SHAPE, InputShape
from fcn_deploy.core.spec import ModelSpec

SHAPES = [
    ANY_SHAPE,
    InputShape(1, 48, 80),
    InputShape(None, 48, 80),
    InputShape(2, None, 80),
    InputShape(multiple=32, smallest=64),
    InputShape(smallest=7),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_its_own_examples_are_taken(shape: InputShape) -> None:
    assert len(shape.examples()) >= 1
    for example in shape.examples():
        assert shape.takes(example)
        shape.require((*example, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_comes_back_from_json(shape: InputShape) -> None:
    assert InputShape.from_json(shape.to_json()) == shape


def test_a_spec_keeps_it(tiny_spec: ModelSpec) -> None:
    from dataclasses import replace

    assert "input_shape" not in tiny_spec.to_json()
    limited = replace(tiny_spec, input_shape=InputShape(1, 48, 80))
    assert ModelSpec.from_json(limited.to_json()) == limited
    assert ModelSpec.from_json(tiny_spec.to_json()).input_shape.takes_all


@pytest.mark.parametrize(
    ("shape", "batch", "words"),
    [
        (InputShape(1, 48, 80), (1, 48, 81), "pictures of 48×80 alone, not of 48×81"),
        (InputShape(1, 48, 80), (3, 48, 80), "batches of 1 pictures, not of 3; use --batch 1"),
        (InputShape(None, None, 80), (1, 5, 7), "pictures of width 80, not of 5×7"),
        (InputShape(multiple=8, smallest=16), (1, 8, 8), "multiples of 8, at least 16 pixels"),
    ],
)
def test_others_are_refused(shape: InputShape, batch: tuple[int, int, int], words: str) -> None:
    with pytest.raises(BatchShapeError) as caught:
        shape.require(batch)
    assert words in str(caught.value)
