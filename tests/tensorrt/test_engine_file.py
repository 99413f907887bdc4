"""Engines as files: the sidecar, the plan's header, and who is refused before TensorRT loads."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn_deploy.core.errors import EngineError, InputError, MissingStageError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import Precision, Product, ShapeProfile, SizeRange
from fcn_deploy.tensorrt.engine_file import (
    EngineSidecar,
    EngineTensor,
    engine_path,
    read_engine,
    read_plan_header,
    read_sidecar,
    sidecar_path,
    write_engine,
)
from fcn_deploy.tensorrt.engine_match import (
    check_belongs,
    check_release,
    choose_profile,
    newest_engine,
    shape_error,
)
from tests.tensorrt_fixtures import SPEC

PROFILE = ShapeProfile((1, 32, 32), (1, 48, 64), (8, 96, 128))


def plan_bytes(tag: bytes = b"ftrt", version: tuple[int, ...] = (10, 16, 1, 11)) -> bytes:
    return tag + bytes(20) + struct.pack("4B", *version) + b"the engine" * 10


def sidecar_of(plan: Path) -> EngineSidecar:
    return EngineSidecar(
        product=Product.TRT,
        version="10.16.1.11",
        plan_digest=file_digest(plan),
        plan_bytes=plan.stat().st_size,
        onnx_digest="sha256:onnx",
        checkpoint_digest="sha256:checkpoint",
        precision=Precision.FP16,
        layers={"fp16": 20, "fp32": 1},
        layers_from="engine inspector",
        compute_capabilities=("sm89",),
        gpu_name="NVIDIA L4",
        driver="13.0",
        system="Linux x86_64",
        profiles=(PROFILE,),
        tensors=(
            EngineTensor("image", "input", "uint8", (-1, -1, -1, 3)),
            EngineTensor("mask", "output", "uint8", (-1, -1, -1)),
        ),
        flags={"workspace_mib": None, "builder": ["no CUDNN"]},
        spec=SPEC,
        command="fcn-deploy build --fp16 --product trt",
        built_at="2026-01-02T03:04:05+00:00",
        build_seconds=12.5,
    )


def write_sidecar(plan: Path, sidecar: EngineSidecar) -> None:
    sidecar_path(plan).write_text(json.dumps(sidecar.to_json()))


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = engine_path(tmp_path, "fcn", Precision.FP16, Product.TRT, "10.16.1.11", ("sm89",))
    path.write_bytes(plan_bytes())
    write_sidecar(path, sidecar_of(path))
    return path


def edit_sidecar(plan: Path, **fields: Any) -> None:
    path = sidecar_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_names_and_round_trip(plan: Path) -> None:
    assert plan.name == "fcn.fp16.trt-10.16.1.11.sm89.plan"
    assert sidecar_path(plan).name == "fcn.fp16.trt-10.16.1.11.sm89.plan.json"
    sidecar = read_engine(plan)
    assert sidecar == sidecar_of(plan)
    assert sidecar.outputs == ("mask",)
    assert plan.read_bytes() == plan_bytes()  # trtexec and Triton load it as it is


def test_the_header_tells_product_and_release(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(plan_bytes(b"vtrt", (1, 7, 1, 116)))
    header = read_plan_header(path)
    assert (header.product, header.version) == (Product.RTX, (1, 7, 1, 116))


def corrupt(plan: Path) -> None:
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)


def truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-1])


def change_sidecar(plan: Path) -> None:
    edit_sidecar(plan, compute_capabilities=["sm90"])


def remove_sidecar(plan: Path) -> None:
    sidecar_path(plan).unlink()


def unseal_sidecar(plan: Path) -> None:
    content = json.loads(sidecar_path(plan).read_text())
    del content["sidecar_digest"]
    sidecar_path(plan).write_text(json.dumps(content))


def break_sidecar(plan: Path) -> None:
    sidecar_path(plan).write_text("{")


def newer_sidecar(plan: Path) -> None:
    edit_sidecar(plan, schema=99)


def swap_plan(plan: Path) -> None:
    plan.write_bytes(plan_bytes(version=(8, 6, 0, 12)))
    write_sidecar(plan, replace(sidecar_of(plan), version="10.16.1.11"))


def not_a_plan(plan: Path) -> None:
    plan.write_bytes(b"PK\x03\x04" + bytes(100))
    write_sidecar(plan, sidecar_of(plan))


REFUSALS: list[tuple[Callable[[Path], None], str, str]] = [
    (corrupt, "is not the plan that was built: expected sha256:", "fcn-deploy build --fp16"),
    (truncate, "is truncated: expected 128 bytes, found 127", "fcn-deploy build --fp16"),
    (change_sidecar, "was changed after the build: expected sha256:", "fcn-deploy build"),
    (unseal_sidecar, "was changed after the build: expected none, found sha256:",
     "fcn-deploy build"),
    (remove_sidecar, "has no sidecar: expected fcn.fp16", "--trust"),
    (break_sidecar, "is not JSON", "fcn-deploy build"),
    (newer_sidecar, "has schema 99, this version reads 1", "fcn-deploy build"),
    (swap_plan, "expected a plan of trt-10.16.1.11, found one of trt-8.6.0.12", "fcn-deploy build"),
    (not_a_plan, "is no TensorRT plan", "fcn-deploy build"),
    (Path.unlink, "no engine ", "fcn-deploy build"),
]  # fmt: skip


@pytest.mark.parametrize(("harm", "sentence", "repair"), REFUSALS)
def test_each_harm_has_its_own_sentence(
    plan: Path, harm: Callable[[Path], None], sentence: str, repair: str
) -> None:
    harm(plan)
    with pytest.raises((EngineError, MissingStageError)) as refused:
        read_engine(plan)
    assert sentence in str(refused.value)
    assert repair in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_plan_that_ends_in_its_header_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(plan_bytes()[:27])
    with pytest.raises(EngineError, match="expected a header of 28 bytes, found 27"):
        read_plan_header(path)


def test_another_release_and_another_gpu_are_refused_in_this_order(plan: Path) -> None:
    sidecar = read_engine(plan)

    def check(product: Product, version: str, capability: str) -> None:
        check_belongs(
            plan, sidecar, product=product, version=version, compute_capability=capability
        )

    check(Product.TRT, "10.16.1.11", "sm89")
    with pytest.raises(
        EngineError, match=r"expected trt-11.4.0.106, .* found trt-10.16.1.11; run `fcn-deploy"
    ):
        check(Product.TRT, "11.4.0.106", "sm90")
    with pytest.raises(EngineError, match=r"expected trt-rtx-1\.7\.1\.116"):
        check(Product.RTX, "1.7.1.116", "sm89")
    with pytest.raises(
        EngineError,
        match=r"expected compute capability sm90, found sm89 \(built on NVIDIA L4\); run `fcn",
    ):
        check(Product.TRT, "10.16.1.11", "sm90")


def test_a_trusted_plan_still_tells_its_release(plan: Path) -> None:
    header = read_plan_header(plan)
    check_release(plan, header, Product.TRT, "10.16.1")
    with pytest.raises(EngineError, match=r"found trt-10\.16\.1\.11"):
        check_release(plan, header, Product.TRT, "8.6.0")


def test_refusals_need_neither_tensorrt_nor_torch(plan: Path) -> None:
    corrupt(plan)
    script = (
        "import sys\n"
        "for name in ('torch', 'tensorrt', 'tensorrt_rtx_bindings', 'cuda', 'onnx', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from fcn_deploy.tensorrt.engine_file import read_engine\n"
        f"read_engine(Path({str(plan)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "EngineError" in done.stderr
    assert "is not the plan that was built" in done.stderr


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


sizes = st.integers(1, 4096)
batches = st.integers(1, 32)  # with the largest of these sizes still small enough
shapes = st.tuples(batches, sizes, sizes)


@st.composite
def profiles(draw: st.DrawFn) -> ShapeProfile:
    columns = [sorted(draw(st.tuples(kind, kind, kind))) for kind in (batches, sizes, sizes)]
    low, middle, high = zip(*columns, strict=True)
    return ShapeProfile(low, middle, high)


@settings(deadline=None, derandomize=True)
@given(profiles())
def test_profiles_survive_text_and_json(profile: ShapeProfile) -> None:
    assert ShapeProfile.from_text(str(profile)) == profile
    assert ShapeProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@settings(deadline=None, derandomize=True)
@given(profiles(), shapes)
def test_a_profile_reaches_for_a_shape_and_no_further(
    profile: ShapeProfile, shape: tuple[int, int, int]
) -> None:
    reached = profile.reaching(shape)
    assert reached.contains(shape)
    assert all(reached.contains(known) for known in profile.shapes)
    assert profile.contains(shape) == (reached == profile)
    assert (profile.distance(shape) == 0) == profile.contains(shape)


@settings(deadline=None, derandomize=True)
@given(shapes.filter(lambda shape: len(set(shape)) > 1), shapes)
def test_a_profile_that_does_not_rise_is_refused(
    low: tuple[int, int, int], high: tuple[int, int, int]
) -> None:
    if any(a > b for a, b in zip(low, high, strict=True)):
        with pytest.raises(InputError, match="does not rise"):
            ShapeProfile(low, low, high)


huge = st.one_of(st.integers(1, 2**11), st.integers(2**28, 2**33), st.integers(10**17, 10**5000))


@settings(deadline=None, derandomize=True)
@given(st.tuples(huge, huge, huge))
def test_a_profile_is_small_enough_for_tensorrt_or_refused_by_name(
    shape: tuple[int, int, int],
) -> None:
    # Python itself writes no number of over 4300 digits.
    text = "1x1x1:1x1x1:" + "x".join("9" * 5000 if n > 10**4000 else str(n) for n in shape)
    if math.prod(shape) * 3 < 2**31:
        assert ShapeProfile.from_text(text).largest == shape
    else:
        with pytest.raises(InputError, match="profile") as refused:
            ShapeProfile.from_text(text)
        assert text in str(refused.value)


@pytest.mark.parametrize("side", [100, 10_000, 20_000, 26_754])
def test_the_default_profile_takes_fewer_of_very_large_images(side: int) -> None:
    largest = ShapeProfile.covering(SizeRange((1, 1), (1, 1), (side, side))).largest
    assert largest[1] >= side
    assert 1 <= largest[0] <= 8
    assert (largest[0] == 8) == (8 * 3 * largest[1] * largest[2] < 2**31)


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
            check_belongs(
                plan,
                sidecar,
                product=Product.RTX,
                version=sidecar.version,
                compute_capability="sm75",
            )
        assert refused.value.repair == (
            "run `fcn-deploy build --product trt-rtx --out x --compute-capability sm75` here"
        )


def test_a_crash_between_the_moves_leaves_a_refused_engine(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_replace = os.replace
    moved: list[Path] = []

    def crash(source: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_engine(plan, memoryview(plan_bytes() + b"new"), sidecar_of(plan))
    with pytest.raises(MissingStageError, match="has no sidecar"):
        read_engine(plan)
    assert moved == [plan]
    assert list(plan.parent.iterdir()) == [plan]


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=30))
def test_foreign_text_is_refused_in_words(text: str) -> None:
    try:
        ShapeProfile.from_text(text)
    except InputError as error:
        assert "1x32x32:1x320x480:8x1024x2048" in str(error)  # noqa: PT017


@settings(deadline=None, derandomize=True)
@given(profiles())
def test_the_default_profile_covers_the_training_images(profile: ShapeProfile) -> None:
    sizes_seen = SizeRange(*(shape[1:] for shape in profile.shapes))
    default = ShapeProfile.covering(sizes_seen)
    for height, width in (sizes_seen.smallest, sizes_seen.largest, (1, 1), (561, 728)):
        assert default.contains((8, height, width))
    assert default.typical == (1, *sizes_seen.typical)


def test_sidecars_are_read_alone(plan: Path) -> None:
    corrupt(plan)
    assert read_sidecar(plan).precision is Precision.FP16  # cheap: the plan is not hashed
