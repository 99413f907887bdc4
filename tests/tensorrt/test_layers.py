"""A built engine's layers, counted by the precision that they work in."""

from __future__ import annotations

import pytest

from fcn_deploy.tensorrt import layers as layers_tensorrt
from fcn_deploy.tensorrt.layers import layers_by_precision


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        ([(["Half"], ["UInt8"])], {"fp16": 1}),
        ([(["UInt8"], ["Half"])], {"fp16": 1}),
        ([(["Row major linear FP32"], ["Channel major FP16 format"])], {"fp32": 1}),
        ([(["Float"], [])], {"fp32": 1}),
        ([(["BFloat16"], [])], {"bf16": 1}),
        ([(["UInt8"], ["Int32"])], {"uint8": 1}),
        # What multiplies int8 may give its sums as floats; what rounds floats to int8 does not.
        ([(["Float"], ["Int8"]), (["Int8"], ["Int8"])], {"int8": 2}),
        ([(["Int8"], ["Float"]), (["Float"], ["Int8", "Float"])], {"fp32": 2}),
        ([([], [])], {"none": 1}),
        ([(["Half"], []), (["Half"], []), (["Int64"], [])], {"fp16": 2, "int64": 1}),
    ],
)
def test_layers_are_counted_by_the_precision_they_work_in(
    layers: list[layers_tensorrt.LayerTypes], counts: dict[str, int]
) -> None:
    assert layers_by_precision(layers) == counts


def test_constants_do_not_count_as_a_layers_precision() -> None:
    listing = (
        "Layers:\nName: a, LayerType: x, Inputs: [ { Name: i, Datatype: Half, Format: L }], "
        "Constants: [ { Name: c, Datatype: Float, Format: L }], Outputs: [], TacticName: Float"
    )
    assert layers_by_precision(layers_tensorrt.layers_of_listing(listing)) == {"fp16": 1}
