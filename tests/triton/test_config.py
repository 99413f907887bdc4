"""config.pbtxt under the schema of Triton's own client: of ONNX files and of engines."""

from dataclasses import replace
from pathlib import Path

import pytest

from fcn_deploy.core.errors import EngineError, InputError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision, ShapeProfile
from fcn_deploy.triton.model import ServedModel, Tensor, onnx_model
from fcn_deploy.triton.repository import write_repository
from tests.foreign_networks import foreign_run
from tests.tensorrt import engine_files
from tests.tensorrt.engine_files import sidecar_of, write_sidecar
from tests.triton.packages import built, exported, parsed

plan = engine_files.plan


def config_of(model: ServedModel, folder: Path, max_batch: int | None = None):  # type: ignore[no-untyped-def]
    write_repository(model, folder, name="m", max_batch=max_batch)
    return parsed(folder / "m" / "config.pbtxt")


def dims(tensor) -> tuple[str, list[int]]:  # type: ignore[no-untyped-def]
    return tensor.name, list(tensor.dims)


def warmed_up(config) -> list[tuple[int, list[int]]]:  # type: ignore[no-untyped-def]
    return [(s.batch_size, list(s.inputs["image"].dims)) for s in config.model_warmup]


def with_profiles(plan: Path, *profiles: ShapeProfile) -> ServedModel:
    """An engine that was built for these."""
    write_sidecar(plan, replace(sidecar_of(plan), profiles=profiles))
    return built(plan)


def test_an_exported_file_of_any_size(tmp_path: Path) -> None:
    config = config_of(exported(tmp_path / "run"), tmp_path / "out")
    assert (config.name, config.platform) == ("m", "onnxruntime_onnx")
    assert config.max_batch_size == 8
    assert [dims(tensor) for tensor in config.input] == [("image", [-1, -1, 3])]
    assert [dims(tensor) for tensor in config.output] == [("mask", [-1, -1])]
    kinds = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert config.input[0].data_type == kinds["TYPE_UINT8"].number
    assert config.output[0].data_type == kinds["TYPE_UINT8"].number
    assert config.output[0].label_filename == "labels.txt"
    (group,) = config.instance_group
    assert group.kind == group.KIND_AUTO
    policy = config.dynamic_batching.default_queue_policy
    assert config.HasField("dynamic_batching")
    assert policy.timeout_action == policy.REJECT
    assert policy.max_queue_size > 0
    # The sizes of the training images, the typical one as a full batch too.
    assert warmed_up(config) == [
        (1, [32, 32, 3]), (1, [48, 64, 3]), (1, [96, 128, 3]), (8, [48, 64, 3]),
    ]  # fmt: skip
    assert all(s.inputs["image"].zero_data for s in config.model_warmup)


def test_other_outputs_have_their_own_dims(tmp_path: Path) -> None:
    model = exported(tmp_path / "run")
    scores = (Tensor("logits", "float32", (-1, 5, -1, -1)), Tensor("margin", "float32", (-1,) * 3))
    config = config_of(replace(model, outputs=(*model.outputs, *scores)), tmp_path / "out", 3)
    assert config.max_batch_size == 3
    assert [dims(tensor) for tensor in config.output] == [
        ("mask", [-1, -1]),
        ("logits", [5, -1, -1]),
        ("margin", [-1, -1]),
    ]
    kinds = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert {t.data_type for t in config.output[1:]} == {kinds["TYPE_FP32"].number}
    assert [tensor.label_filename for tensor in config.output] == ["labels.txt", "", ""]


def test_a_network_of_one_shape_gets_fixed_dims_with_n(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    foreign_run(run, batch=2, size=(40, 56))
    model = onnx_model(run, Precision.FP32)
    config = config_of(model, tmp_path / "out")
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")  # Triton batches nothing without an N of its own
    assert [dims(tensor) for tensor in config.input] == [("image", [2, 40, 56, 3])]
    assert [dims(tensor) for tensor in config.output] == [("mask", [2, 40, 56])]
    assert warmed_up(config) == [(1, [2, 40, 56, 3])]
    assert model.batch_limit(2) == 0
    with pytest.raises(InputError, match="takes batches of 2 pictures, not of up to 8"):
        model.batch_limit(8)


def test_a_fixed_size_alone_leaves_n_to_triton(tmp_path: Path) -> None:
    model = exported(tmp_path / "run")
    spec = replace(model.spec, input_shape=InputShape(height=64, width=64))
    image, mask = Tensor("image", "uint8", (-1, 64, 64, 3)), Tensor("mask", "uint8", (-1, 64, 64))
    config = config_of(replace(model, spec=spec, image=image, outputs=(mask,)), tmp_path / "out")
    assert config.max_batch_size == 8
    assert [dims(tensor) for tensor in config.input] == [("image", [64, 64, 3])]
    assert warmed_up(config) == [(1, [64, 64, 3]), (8, [64, 64, 3])]


def test_a_network_of_multiples_is_warmed_up_at_sizes_that_it_takes(tmp_path: Path) -> None:
    model = exported(tmp_path / "run")
    spec = replace(model.spec, input_shape=InputShape(multiple=64, smallest=64))
    shapes = replace(model, spec=spec).warm_up_shapes(4)
    assert shapes == ((1, 64, 64), (1, 128, 128), (4, 64, 64))


def test_an_engine_gets_the_limits_of_its_profile(plan: Path, tmp_path: Path) -> None:
    config = config_of(built(plan), tmp_path / "out")
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 8
    assert [dims(tensor) for tensor in config.input] == [("image", [-1, -1, 3])]
    assert list(config.instance_group[0].profile) == []
    with pytest.raises(InputError, match="takes batches of 1 to 8 pictures, not of up to 9"):
        built(plan).batch_limit(9)
    assert built(plan).batch_limit(2) == 2


def test_of_several_profiles_all_are_used_and_the_smallest_limit_holds(
    plan: Path, tmp_path: Path
) -> None:
    sizes = ((64, 96), (480, 640))
    small = ShapeProfile((1, *sizes[0]), (4, *sizes[0]), (16, *sizes[0]))
    large = ShapeProfile((1, *sizes[1]), (2, *sizes[1]), (2, *sizes[1]))
    config = config_of(with_profiles(plan, small, large), tmp_path / "out")
    assert config.max_batch_size == 2
    assert list(config.instance_group[0].profile) == ["0", "1"]
    # No training image has a size that it takes: it is run at what it was tuned for.
    assert warmed_up(config) == [(2, [64, 96, 3]), (2, [480, 640, 3])]


def test_an_engine_of_larger_batches_alone_is_warmed_up_with_them(plan: Path) -> None:
    model = with_profiles(plan, ShapeProfile((4, 48, 64), (4, 48, 64), (8, 48, 64)))
    assert model.warm_up_shapes(model.batch_limit(None)) == ((4, 48, 64), (8, 48, 64))
    with pytest.raises(InputError, match="4 to 8 pictures, not of up to 2"):
        model.batch_limit(2)


def test_profiles_without_a_common_batch_are_refused(plan: Path) -> None:
    few = ShapeProfile((1, 48, 64), (2, 48, 64), (2, 48, 64))
    many = ShapeProfile((4, 96, 96), (4, 96, 96), (8, 96, 96))
    with pytest.raises(EngineError, match="share no number of pictures"):
        with_profiles(plan, few, many).batch_limit(None)
