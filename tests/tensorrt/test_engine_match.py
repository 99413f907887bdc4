"""Which engine fits a machine, a file and a batch: found by name, refused with the repair."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import EngineError
from fcn_deploy.core.spec import Precision, Product, ShapeProfile
from fcn_deploy.tensorrt.engine_file import (
    EngineSidecar,
    EngineTensor,
    read_engine,
    read_plan_header,
)
from fcn_deploy.tensorrt.engine_match import (
    check_belongs,
    check_release,
    choose_profile,
    newest_engine,
    shape_error,
)
from tests.tensorrt import engine_files
from tests.tensorrt.engine_files import PROFILE, plan_bytes, sidecar_of, write_sidecar

plan = engine_files.plan


def check(plan: Path, sidecar: EngineSidecar, **machine: Any) -> None:
    """Check on the machine that the plan was built on, but for what is named."""
    here = {"product": Product.TRT, "version": "10.16.1.11", "compute_capability": "sm89"}
    check_belongs(plan, sidecar, **{**here, **machine})


def test_another_release_and_another_gpu_are_refused_in_this_order(plan: Path) -> None:
    sidecar = read_engine(plan)
    check(plan, sidecar)
    gpu: dict[str, Any] = {"compute_capability": "sm90"}
    for machine, words in (
        ({"version": "11.4.0.106", **gpu},
         r"expected trt-11.4.0.106, .* found trt-10.16.1.11; run `fcn-deploy"),
        ({"product": Product.RTX, "version": "1.7.1.116"}, r"expected trt-rtx-1\.7\.1\.116"),
        (gpu, r"expected compute capability sm90, found sm89 \(built on NVIDIA L4\); run `fcn"),
    ):  # fmt: skip
        with pytest.raises(EngineError, match=words):
            check(plan, sidecar, **machine)


def test_a_plan_of_another_system_is_refused(plan: Path) -> None:
    """As one for a desktop is that was copied to a Jetson."""
    sidecar = replace(sidecar_of(plan), system="Linux riscv64")
    with pytest.raises(EngineError, match=r"expected \w+ \w+, found Linux riscv64; run `fcn"):
        check(plan, sidecar)


def test_a_trusted_plan_still_tells_its_release(plan: Path) -> None:
    header = read_plan_header(plan)
    check_release(plan, header, Product.TRT, "10.16.1")
    with pytest.raises(EngineError, match=r"found trt-10\.16\.1\.11"):
        check_release(plan, header, Product.TRT, "8.6.0")


def test_the_newest_engine_that_fits(plan: Path) -> None:
    folder = plan.parent

    def look(**changed: Any) -> tuple[Path | None, str]:
        wanted: dict[str, Any] = {
            "product": Product.TRT,
            "version": "10.16.1.11",
            "compute_capability": "sm89",
            "precision": Precision.FP16,
            "outputs": ("mask",),
            **changed,
        }
        return newest_engine(folder, **wanted)

    assert look()[0] == plan
    younger, more = folder / "other.fp16.x.plan", folder / "more.fp16.x.plan"
    for path, changes in (
        (younger, {"built_at": "2027-01-01T00:00:00+00:00"}),
        (
            more,
            {
                "built_at": "2028-01-01T00:00:00+00:00",
                "tensors": (
                    *sidecar_of(plan).tensors,
                    EngineTensor("logits", "output", "float32", (-1, 5, -1, -1)),
                ),
            },
        ),
    ):
        path.write_bytes(plan_bytes())
        write_sidecar(path, replace(sidecar_of(plan), **changes))  # type: ignore[arg-type]
    assert look()[0] == younger  # newest of those that give nothing else
    assert look(outputs=("mask", "logits"))[0] == more
    assert look(name="fcn")[0] == plan
    for changed, reason in (
        ({"precision": Precision.FP32}, "is fp16"),
        ({"onnx_digest": "sha256:other"}, "was built from another file"),
        ({"checkpoint_digest": "sha256:other"}, "was built from another file"),
        ({"compute_capability": "sm90"}, "is for another GPU"),
        ({"version": "11.4.0.106"}, "is of another TensorRT"),
        ({"outputs": ("margin",)}, "alone"),
    ):
        found, why = look(**changed)
        assert found is None
        assert reason in why
    assert newest_engine(
        folder / "empty",
        product=Product.TRT,
        version="1",
        compute_capability="sm89",
        precision=Precision.FP16,
        outputs=(),
    ) == (None, f"there is none in {folder / 'empty'}/")


def test_profiles_are_chosen_by_what_they_are_tuned_for() -> None:
    wide = ShapeProfile((1, 1, 1), (8, 96, 128), (8, 1024, 2048))
    assert choose_profile((PROFILE, wide), (1, 48, 64)) == 0
    assert choose_profile((PROFILE, wide), (8, 96, 128)) == 1
    assert choose_profile((PROFILE, wide), (1, 16, 64)) == 1
    assert choose_profile((PROFILE, wide), (9, 48, 64)) is None


def test_a_shape_outside_names_the_nearest_profile_and_the_build() -> None:
    far = ShapeProfile((1, 512, 512), (1, 512, 512), (1, 512, 512))
    error = shape_error((far, PROFILE), "fcn-deploy build --fp16", (16, 48, 200))
    assert str(error) == (
        "the engine takes no batch of 16x48x200 (N×H×W): the nearest profile is "
        "1x32x32:1x48x64:8x96x128; run `fcn-deploy build --fp16 "
        "--profile 1x32x32:1x48x64:16x96x200`"
    )


def test_a_shape_that_no_engine_takes_is_refused_without_a_rebuild() -> None:
    error = shape_error((PROFILE,), "fcn-deploy build", (2**15, 2**10, 2**10))
    assert "the engine takes no batch of 32768x1024x1024" in str(error)
    assert "give smaller batches or pictures" in str(error)


def test_the_rebuild_of_an_rtx_engine_names_the_gpu_that_is_here(plan: Path) -> None:
    for command in (
        "fcn-deploy build --product trt-rtx --compute-capability sm89,sm120 --out x",
        "fcn-deploy build --product trt-rtx --out x",
    ):
        sidecar = replace(sidecar_of(plan), product=Product.RTX, command=command)
        with pytest.raises(EngineError) as refused:
            check(plan, sidecar, product=Product.RTX, compute_capability="sm75")
        assert refused.value.repair == (
            "run `fcn-deploy build --product trt-rtx --out x --compute-capability sm75` here"
        )
