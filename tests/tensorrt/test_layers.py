"""A built engine's layers, counted by the precision that they work in."""

import json

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


def test_a_layer_of_which_a_type_is_not_told_is_unknown() -> None:
    lost = "N/A due to dynamic shapes"
    counted = layers_by_precision(
        [
            ([lost], ["Row major linear FP32"]),  # what it gives may be half
            ([lost], ["Row major linear UINT8"]),
            ([lost], ["Row major linear FP16 format"]),  # halves are touched, whatever it gives
            ([lost], [lost]),
            ([""], []),
        ]
    )
    assert counted == {"fp16": 1, "unknown": 4}
    assert layers_tensorrt.known_layers(counted) == 1
    assert layers_tensorrt.layers_in_words({}, "not told (why)") == "layers not told (why)"
    words = layers_tensorrt.layers_in_words(counted, "builder log")
    assert words == "4 layers unknown, 1 fp16 (builder log)"


#: Lines in the form in which 8.6 logs a layer: kind, name, tactic, tensors with type and size.
LOG_OF_8_6 = """Engine Layer Information:
Layer(Constant): stem.bias + (Unnamed Layer* 4) [Shuffle], Tactic: 0x0000000000000000,  -> \
(Unnamed Layer* 4) [Shuffle]_output (Float[1,64,1,1])
Layer(Reformat): Reformatting CopyNode for Input Tensor 0 to /stem/Conv, Tactic: \
0x00000000000003ea, /Cast_output_0 (Float[-2,3,-3,-4]) -> Reformatted Input Tensor 0 to /stem/Conv \
(Half[-2,3:4,-3,-4])
Layer(CaskConvolution): /stem/Conv + PWN(/stem/Relu), Tactic: 0x1a2b3c4d5e6f7081, Reformatted \
Input Tensor 0 to /stem/Conv (Half[-2,3:4,-3,-4]) -> /stem/Relu_output_0 (Half[-2,64:8,-3,-4])
Layer(CaskConvolution): /1/Conv, Tactic: 0x1a2b3c4d5e6f7082, a (Int8[-2,64:32,-3,-4]) -> b \
(Float[-2,64,-3,-4])
Layer(TopK): /ArgMax, Tactic: 0x0000000000000000, scores (Half[-2,5,-3,-4]) -> \
(Unnamed Layer* 90) [TopK]_output_1 (Half[-2,1,-3,-4]), /ArgMax_output_0 (Int32[-2,1,-3,-4])
Layer(NoOp): Squeeze, Tactic: 0x0000000000000000, /ArgMax_output_0 (Int32[-2,1,-3,-4]) -> c \
(Int32[-2,-3,-4])
Layer(ShapeHostToDeviceCopy): shape, Tactic: 0x0000000000000000,  ->
"""


def test_the_log_of_8_6_is_read() -> None:
    layers = layers_tensorrt.layers_of_log(LOG_OF_8_6)
    assert layers_by_precision(layers) == {
        "fp16": 3, "fp32": 1, "int32": 1, "int8": 1, "none": 1,
    }  # fmt: skip
    assert layers[1] == (["Half"], ["Float"])


def test_the_log_of_releases_before_8_6_is_read() -> None:
    line = (
        "Layer(CaskConvolution): Conv_0 + PWN(Clip_3), Tactic: 7274495, Reformatted Input Tensor 0 "
        "to Conv_0 + PWN(Clip_3)[Int8(1,3,512,768)], b[Half(1,3:8,5,7)] -> 395[Half(1,32,256,384)]"
    )
    assert layers_tensorrt.layers_of_log(line) == [(["Half"], ["Int8", "Half"])]


@pytest.mark.parametrize(
    ("release", "tensor"),
    [
        ("8.6", {"Name": "x", "Format/Datatype": "Two wide channel vectorized row major FP16"}),
        ("10.x", {"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8"}),
        # 11 tells them apart: the migration guide, "IEngineInspector JSON Output".
        ("11.x", {"Name": "x", "DataType": "Half", "Format": "Row major linear FP16 (kLINEAR)"}),
    ],
)
def test_the_inspector_of_each_release_is_read(release: str, tensor: dict[str, str]) -> None:
    layer = {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [], "Outputs": [tensor]}
    information = json.dumps({"Layers": ["a bare name", layer], "Bindings": ["image", "mask"]})
    assert layers_by_precision(layers_tensorrt.layers_of_inspector(information)) == {"fp16": 1}
