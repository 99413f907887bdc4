"""ONNX files of ours tell what they are; foreign, cut or empty ones are refused by name."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import SPEC_KEY, ModelSpec, Precision
from fcn_deploy.graph.logits import with_logits
from fcn_deploy.graph.onnx_file import CHECKPOINT_DIGEST_KEY, PRECISION_KEY, OnnxFile
from tests.file_reads import counted_reads
from tests.onnx_outputs import outputs_of

OneLine = Callable[[Exception], str]

WEIGHT = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]], np.float32)


def small_graph(*, argmaxes: int = 1, properties: dict[str, str] | None = None) -> onnx.ModelProto:
    """Pixels [N, 3, H, W] → 1×1 convolution → ArgMax, by hand."""
    nodes = [helper.make_node("Conv", ["image", "weight"], ["scores"])]
    outputs = []
    for index in range(argmaxes):
        name = f"mask{index or ''}"
        nodes.append(helper.make_node("ArgMax", ["scores"], [name], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "H", "W"]))
    if not argmaxes:
        outputs.append(
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4, "H", "W"])
        )
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        outputs,
        [numpy_helper.from_array(WEIGHT[:, :, None, None], "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    helper.set_model_props(model, properties or {})
    onnx.checker.check_model(model, full_check=True)
    return model


def properties_of(spec: ModelSpec) -> dict[str, str]:
    return {SPEC_KEY: spec.to_json(), PRECISION_KEY: "fp16", CHECKPOINT_DIGEST_KEY: "sha256:1234"}


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, one_line: OneLine) -> str:
    """Read its metadata; return the text of the OnnxFileError that must come."""
    with pytest.raises(OnnxFileError) as caught:
        OnnxFile(path).metadata  # noqa: B018 (read when asked for)
    assert caught.value.exit_code == 2
    text = one_line(caught.value)
    assert str(path) in text
    return text


# -- files of ours ------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_an_exported_file_tells_what_it_is(
    tiny_run: Path, tiny_spec: ModelSpec, precision: Precision
) -> None:
    name = "model.onnx" if precision is Precision.FP32 else "model.fp16.onnx"
    metadata = OnnxFile(tiny_run / name).metadata
    assert metadata.spec == tiny_spec
    assert metadata.precision is precision
    assert metadata.checkpoint_digest == file_digest(tiny_run / "model.safetensors")
    assert metadata.outputs == ("mask",)


def test_the_metadata_needs_no_graph_of_ours(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    path = write(tmp_path / "model.onnx", small_graph(properties=properties_of(tiny_spec)))
    metadata = OnnxFile(path).metadata
    assert metadata.spec == tiny_spec
    assert metadata.precision is Precision.FP16
    assert metadata.checkpoint_digest == "sha256:1234"
    assert metadata.outputs == ("mask",)


def test_everything_of_a_file_is_of_one_reading(tiny_run: Path) -> None:
    path = (tiny_run / "model.onnx").resolve()
    with counted_reads() as reads:
        file = OnnxFile(path)
        assert file.metadata.outputs == ("mask",)
        assert file.digest == f"sha256:{hashlib.sha256(file.bytes).hexdigest()}"
        assert len(file.model.graph.node) > 10
    assert reads[path] == 1


def test_nothing_is_read_before_it_is_asked_for(tmp_path: Path) -> None:
    with counted_reads() as reads:
        OnnxFile(tmp_path / "missing.onnx").release()
    assert not reads[tmp_path / "missing.onnx"]


def test_what_is_released_is_let_go_and_the_rest_stays(tiny_run: Path) -> None:
    path = (tiny_run / "model.onnx").resolve()
    file = OnnxFile(path)
    metadata = file.metadata
    with counted_reads() as reads:
        file.release()
        assert not {"bytes", "model"} & vars(file).keys()
        assert file.metadata is metadata
        digest = file.digest
    assert reads[path] == 0
    assert digest == file_digest(path)
    with counted_reads() as reads:
        assert file.bytes == path.read_bytes()
    assert reads[path] == 2  # the test's own is one of them


@pytest.mark.parametrize("asked", ["bytes", "model"])
def test_a_file_that_changed_after_its_release_is_refused(
    tiny_run: Path, tmp_path: Path, asked: str, one_line: OneLine
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes((tiny_run / "model.onnx").read_bytes())
    file = OnnxFile(path)
    assert file.metadata
    file.release()
    with path.open("ab") as stream:
        stream.write(b"\x00")
    with pytest.raises(OnnxFileError, match="has changed since it was opened; open it anew") as e:
        getattr(file, asked)
    one_line(e.value)


# -- files that are refused ---------------------------------------------------------------------


def test_without_the_onnx_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line: OneLine
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("model", "metadata"):
        with pytest.raises(BackendError, match=r"model\.onnx needs onnx, which") as caught:
            getattr(OnnxFile(tmp_path / "model.onnx"), name)
        assert one_line(caught.value).endswith("; pip install onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"text, not a graph", b"\x00" * 100, b"PK\x03\x04", b"{}", b"\x08\x09",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46823911\n",
    ],
)  # fmt: skip
def test_bytes_that_are_no_onnx_file(tmp_path: Path, content: bytes, one_line: OneLine) -> None:
    path = tmp_path / "model.onnx"
    assert "`fcn-deploy export`" in refused(path, one_line)  # it is not there yet
    refused(tmp_path, one_line)  # a folder
    path.write_bytes(content)
    assert "no ONNX file" in refused(path, one_line)


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.9999])
def test_a_truncated_file(tiny_run: Path, tmp_path: Path, kept: float, one_line: OneLine) -> None:
    whole = (tiny_run / "model.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(path, one_line)


def test_a_foreign_onnx_file(tmp_path: Path, one_line: OneLine) -> None:
    text = refused(write(tmp_path / "model.onnx", small_graph()), one_line)
    assert "no fcn-deploy spec" in text
    assert "`fcn-deploy export`" in text


@pytest.mark.parametrize("key", [SPEC_KEY, PRECISION_KEY, CHECKPOINT_DIGEST_KEY])
def test_metadata_that_is_missing_in_part(
    tmp_path: Path, tiny_spec: ModelSpec, key: str, one_line: OneLine
) -> None:
    properties = properties_of(tiny_spec)
    del properties[key]
    refused(write(tmp_path / "model.onnx", small_graph(properties=properties)), one_line)


@pytest.mark.parametrize(
    ("key", "value"),
    [(SPEC_KEY, "{}"), (SPEC_KEY, ""), (SPEC_KEY, '{"schema": 99}'), (PRECISION_KEY, "fp4")],
)
def test_metadata_that_cannot_be_read(
    tmp_path: Path, tiny_spec: ModelSpec, key: str, value: str, one_line: OneLine
) -> None:
    properties = {**properties_of(tiny_spec), key: value}
    refused(write(tmp_path / "model.onnx", small_graph(properties=properties)), one_line)


def test_a_file_with_external_weights(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        small_graph(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    refusal = "keeps its weights in another file; give a file that `fcn-deploy export` wrote"
    assert refusal in refused(path, one_line)  # whatever lies there: a file of ours is whole
    (tmp_path / "weights.bin").unlink()
    assert refusal in refused(path, one_line)


# -- with_logits --------------------------------------------------------------------------------


def test_with_logits_shows_what_the_argmax_reads() -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    before = outputs_of(small_graph(), image=images)
    after = outputs_of(with_logits(small_graph()), image=images)
    expected = np.einsum("kc,nchw->nkhw", WEIGHT, images)
    np.testing.assert_allclose(after["logits"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(after["mask"], before["mask"])
    np.testing.assert_array_equal(after["mask"], after["logits"].argmax(axis=1))


def test_with_logits_leaves_the_graph_as_it_was(tiny_run: Path) -> None:
    model = OnnxFile(tiny_run / "model.onnx").model
    before = model.SerializeToString()
    assert with_logits(model).SerializeToString() != before
    assert model.SerializeToString() == before


def test_with_logits_of_a_half_precision_file_gives_float32(tiny_run: Path) -> None:
    model = with_logits(OnnxFile(tiny_run / "model.fp16.onnx").model)
    onnx.checker.check_model(model, full_check=True)
    images = np.random.default_rng(0).integers(0, 256, (1, 33, 40, 3), dtype=np.uint8)
    outputs = outputs_of(model, image=images)
    assert outputs["logits"].dtype == np.float32
    assert outputs["logits"].shape == (1, 5, 33, 40)
    np.testing.assert_array_equal(outputs["mask"], outputs["logits"].argmax(axis=1))


@pytest.mark.parametrize("argmaxes", [0, 2])
def test_a_graph_whose_argmax_is_not_the_only_one(argmaxes: int, one_line: OneLine) -> None:
    with pytest.raises(OnnxFileError, match=f"found {argmaxes}") as caught:
        with_logits(small_graph(argmaxes=argmaxes))
    assert caught.value.repair
    one_line(caught.value)
