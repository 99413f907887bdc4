"""TensorRT for RTX itself, which needs no GPU to build: it takes every export."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from fcn_deploy.core.errors import BuildError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import OUTPUT_NAMES, Precision, Product, Tail
from fcn_deploy.graph.fp16_rounding import tensor_types
from fcn_deploy.graph.onnx_file import OnnxFile
from fcn_deploy.tensorrt import api
from fcn_deploy.tensorrt.build import engine_from_onnx
from fcn_deploy.tensorrt.engine_file import read_engine, sidecar_path
from tests.command_line import run_command
from tests.tensorrt_fixtures import SPEC, needs_rtx, write_onnx

FP16 = Precision.FP16

#: (architecture, precision, outputs, opset): what `export` can write, each value with each other
#: on the small network, and one of each for the larger ones.
VARIANTS = [
    ("fcn32s-resnet18", precision, outputs, opset)
    for precision in (Precision.FP32, FP16)
    for outputs in (("mask",), ("mask", "logits"), ("mask", "margin"), OUTPUT_NAMES)
    for opset in (17, 20)
] + [
    ("fcn32s-resnet34", FP16, ("mask",), 20),
    ("fcn32s-resnet50", FP16, ("mask",), 20),
    ("fcn32s-resnet101", FP16, ("mask",), 17),
]
#: By the outputs or the architecture: no variant more for the other tails.
TAILS: dict[str | tuple[str, ...], Tail] = {
    ("mask", "logits"): Tail.DECONV,
    ("mask", "margin"): Tail.TOURNAMENT,
    "fcn32s-resnet34": Tail.RESIZE,
}


@pytest.fixture(scope="module")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random weights of an architecture, made once."""
    torch = pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    made: dict[str, Path] = {}

    def checkpoint(architecture: str) -> Path:
        if architecture not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = build_model(architecture, SPEC.num_classes)
            path = tmp_path_factory.mktemp(architecture) / "model.safetensors"
            save_checkpoint(path, model, replace(SPEC, architecture=architecture))
            made[architecture] = path
        return made[architecture]

    return checkpoint


@pytest.mark.slow
@needs_rtx
@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize(
    ("architecture", "precision", "outputs", "opset"),
    VARIANTS,
    ids=lambda value: (
        "+".join(value) if isinstance(value, tuple) else str(getattr(value, "value", value))
    ),
)
def test_the_real_parser_and_builder_take_every_export(
    architecture: str,
    precision: Precision,
    outputs: tuple[str, ...],
    opset: int,
    checkpoint_of: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    onnx_path = tmp_path / "model.onnx"
    onnx_from_checkpoint(
        checkpoint_of(architecture),
        onnx_path,
        precision=precision,
        outputs=outputs,
        opset=opset,
        # Early argmax where another tail is not to be seen as well.
        tail=TAILS.get(outputs, TAILS.get(architecture, Tail.EARLY_ARGMAX)),
        # A hundred untrained layers lose too many digits in half to pass; here they are parsed.
        checked=precision is Precision.FP32,
    )
    model = onnx.load(onnx_path)
    assert model.opset_import[0].version == opset
    if opset == 17:
        assert model.ir_version == 8
        (last,) = (node for node in model.graph.node if "mask" in node.output)
        assert (last.op_type, last.attribute[0].i) == ("Cast", onnx.TensorProto.UINT8)
        assert tensor_types(model)[last.input[0]] == onnx.TensorProto.FLOAT
    engine = engine_from_onnx(
        OnnxFile(onnx_path), name="fcn", product=Product.RTX, folder=tmp_path / "engines"
    )
    sidecar = read_engine(engine.path)
    assert sidecar.plan_digest == file_digest(engine.path)
    assert sidecar.outputs == outputs
    assert sidecar.version == api.installed_version(Product.RTX)
    convolutions = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    assert sidecar.layers[precision.value] >= convolutions
    if precision is Precision.FP32:
        assert "fp16" not in sidecar.layers


@needs_rtx
def test_the_real_parser_names_the_node_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as failed:
        engine_from_onnx(
            OnnxFile(write_onnx(tmp_path / "model.onnx", node="Unheard", opset=20)),
            name="fcn",
            product=Product.RTX,
            folder=tmp_path / "engines",
        )
    assert "the_node" in str(failed.value)
    assert "Unheard" in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1


@pytest.mark.slow
@needs_rtx
def test_the_real_command_builds_and_finds_it_current(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    run, engines = Run(tmp_path / "runs" / "city"), tmp_path / "engines"
    onnx_from_checkpoint(checkpoint_of("fcn32s-resnet18"), run.onnx(FP16), precision=FP16)
    words = ("build", str(run.root), "--fp16", "--product", "trt-rtx", "--out", str(engines))
    code, said, complaint = run_command(*words)
    assert (code, complaint) == (0, "")
    assert "layers fp16" in said
    (plan,) = engines.glob("*.plan")
    content = json.loads(sidecar_path(plan).read_text())
    assert content["plan_digest"] == file_digest(plan)
    assert content["version"] == api.installed_version(Product.RTX)
    assert content["command"] == (
        f"fcn-deploy build {run.root} --fp16 --product trt-rtx --out {engines}"
    )
    code, said, complaint = run_command(*words)
    assert (code, complaint) == (0, "")
    assert "is current: same ONNX file" in said
    code, said, complaint = run_command(*words, "--compute-capability", "sm90")
    assert code == 2
    assert "does not build for sm90" in complaint
    assert len(complaint.splitlines()) == 1
