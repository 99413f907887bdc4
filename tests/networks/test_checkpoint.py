"""Checkpoints: bit for bit there and back; whatever is not one of ours is refused by name."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fcn_deploy.core.errors import ArtifactError, CheckpointError
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import load_checkpoint, load_weights, read_spec, save_checkpoint
from tests.networks.bomb import Bomb

OneLine = Callable[[Exception], str]


@pytest.fixture(scope="module")
def network(tiny_spec: ModelSpec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = build_model(tiny_spec.architecture, tiny_spec.num_classes)
        model(torch.randn(2, 3, 64, 64))  # so that batch norm has statistics of its own
    return model


@pytest.fixture(scope="module")
def written(
    network: nn.Module, tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    save_checkpoint(path, network, tiny_spec)
    return path


def small_network() -> nn.Module:
    return nn.Linear(3, 2)


def split(content: bytes) -> tuple[bytes, bytes]:
    """A safetensors file's header and its tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def with_header(header: bytes, tensors: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


def refused(path: Path, one_line: OneLine) -> str:
    """Load; return the text of the CheckpointError that must come."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 2
    assert caught.value.repair
    text = one_line(caught.value)
    assert str(path) in text
    assert len(text) < 600
    return text


# -- there and back -----------------------------------------------------------------------------


def test_weights_and_spec_come_back_bit_for_bit(
    written: Path, network: nn.Module, tiny_spec: ModelSpec
) -> None:
    loaded = load_checkpoint(written)
    assert loaded.spec == tiny_spec
    assert not loaded.model.training
    before, after = network.state_dict(), loaded.model.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name


def test_the_header_alone_holds_the_spec(
    written: Path, tiny_spec: ModelSpec, tmp_path: Path
) -> None:
    header, _ = split(written.read_bytes())
    assert ModelSpec.from_json(json.loads(header)["__metadata__"]["fcn_deploy.spec"]) == tiny_spec
    (tmp_path / "header.safetensors").write_bytes(with_header(header))
    assert read_spec(tmp_path / "header.safetensors") == tiny_spec


def test_any_tool_can_read_the_weights(written: Path, network: nn.Module) -> None:
    assert set(load_file(written)) == set(network.state_dict())


def test_every_length_of_header_is_told_from_a_pickle(tmp_path: Path, tiny_spec: ModelSpec) -> None:
    # The file starts with its header's length, whose bytes may be those a pickle starts with:
    # 0x80, or "PK" (a length of 19 280).
    path = tmp_path / "model.safetensors"
    starts = set()
    for length in (*range(0, 300, 8), *range(18_300, 18_900, 8)):
        spec = replace(tiny_spec, class_names=("a" * (1 + length), *tiny_spec.class_names[1:]))
        save_checkpoint(path, small_network(), spec)
        starts.add(path.read_bytes()[:2])
        assert read_spec(path) == spec
    assert b"PK" in starts
    assert any(start[:1] == b"\x80" for start in starts)


def test_weights_that_require_grad_or_are_strided_are_saved(
    tmp_path: Path, tiny_spec: ModelSpec
) -> None:
    model = small_network()
    model.weight = nn.Parameter(torch.arange(6.0).reshape(3, 2).T)
    save_checkpoint(tmp_path / "model.safetensors", model, tiny_spec)
    loaded = small_network()
    load_weights(tmp_path / "model.safetensors", loaded)
    assert torch.equal(loaded.state_dict()["weight"], model.state_dict()["weight"])


def test_a_checkpoint_may_be_read_by_whom_any_file_may(
    tmp_path: Path, tiny_spec: ModelSpec
) -> None:
    save_checkpoint(tmp_path / "model.safetensors", small_network(), tiny_spec)
    (tmp_path / "any").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "any").stat().st_mode


# -- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 500, 0.01, 0.5, 0.999, -1])
def test_a_truncated_checkpoint(
    written: Path, tmp_path: Path, kept: float, one_line: OneLine
) -> None:
    whole = written.read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    assert "truncated" in refused(path, one_line)


@pytest.mark.parametrize("form", ["torch.save", "torch.save, old", "pickle"])
def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path, form: str, one_line: OneLine) -> None:
    path, mark = tmp_path / "model.safetensors", tmp_path / "ran"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark), path, _use_new_zipfile_serialization=form == "torch.save")
    text = refused(path, one_line)
    assert "pickle" in text
    assert "--weights" in text
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, long enough to be read as a length",
        b"\xff" * 64,
        with_header(b"[1, 2, 3]"),
        with_header(b"{not json}"),
        with_header(b"\xff\xfe{}"),
        with_header(b"{}"),
        with_header(b'{"__metadata__": null}'),
        with_header(b'{"__metadata__": 3}'),
        with_header(b'{"__metadata__": {"fcn_deploy.spec": "{}"}}'),
        with_header(b'{"__metadata__": {"fcn_deploy.spec": 7}}'),
        with_header(b'{"__metadata__": {"fcn_deploy.spec": "{\\"schema\\": 99}"}}'),
    ],
)
def test_bytes_that_are_no_checkpoint(tmp_path: Path, content: bytes, one_line: OneLine) -> None:
    path = tmp_path / "model.safetensors"
    assert "no checkpoint" in refused(path, one_line)
    refused(tmp_path, one_line)  # a folder
    path.write_bytes(content)
    refused(path, one_line)


def test_a_foreign_safetensors_file(tmp_path: Path, one_line: OneLine) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    assert "no fcn-deploy spec" in refused(path, one_line)


def test_an_architecture_we_do_not_know(
    tmp_path: Path, tiny_spec: ModelSpec, one_line: OneLine
) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_network(), replace(tiny_spec, architecture="unet-vgg"))
    text = refused(path, one_line)
    assert "unet-vgg" in text
    assert "fcn32s-resnet18" in text


def test_weights_of_another_architecture_or_class_count(
    written: Path, tmp_path: Path, tiny_spec: ModelSpec, one_line: OneLine
) -> None:
    path = tmp_path / "model.safetensors"
    fewer = replace(tiny_spec, class_names=tiny_spec.class_names[:3], palette=tiny_spec.palette[:3])
    other = replace(tiny_spec, architecture="fcn32s-resnet34")
    for spec, words in ((other, "architecture"), (fewer, "class count")):
        save_file(load_file(written), path, metadata={"fcn_deploy.spec": spec.to_json()})
        assert words in refused(path, one_line)


def test_weights_that_do_not_fit_a_given_network(written: Path, one_line: OneLine) -> None:
    with pytest.raises(CheckpointError, match="another architecture") as caught:
        load_weights(written, small_network())
    assert str(written) in one_line(caught.value)


# -- a failed write keeps what was there ----------------------------------------------------------


@pytest.mark.parametrize("failing", ["disk", "library"])
def test_a_failed_write_keeps_the_old_checkpoint(
    tmp_path: Path,
    tiny_spec: ModelSpec,
    monkeypatch: pytest.MonkeyPatch,
    one_line: OneLine,
    failing: str,
) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small_network(), tiny_spec)
    before = path.read_bytes()

    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "disk":
        monkeypatch.setattr("os.replace", disk_full)
    else:
        monkeypatch.setattr("secrets.token_hex", lambda _: "here")
        (tmp_path / ".model.here.safetensors").mkdir()  # the library cannot write to this name
    with pytest.raises(ArtifactError, match="full" if failing == "disk" else "model") as caught:
        save_checkpoint(path, small_network(), tiny_spec)
    assert str(path) in one_line(caught.value)
    assert path.read_bytes() == before
    if failing == "disk":
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_unwritable_folder(tmp_path: Path, tiny_spec: ModelSpec, one_line: OneLine) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(ArtifactError, match="cannot write") as caught:
        save_checkpoint(tmp_path / "runs" / "model.safetensors", small_network(), tiny_spec)
    assert "choose another place" in one_line(caught.value)


@pytest.mark.parametrize("metadata", ["{}", '{{"fcn_deploy.spec": "{}"}}'], ids=["header", "spec"])
def test_a_header_that_is_nested_too_deeply(
    tmp_path: Path, metadata: str, one_line: OneLine
) -> None:
    deep = '{"__metadata__": ' + metadata.format("[" * 200_000 + "]" * 200_000) + "}"
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(deep)) + deep.encode())
    with pytest.raises(CheckpointError) as caught:
        read_spec(path)
    assert str(path) in one_line(caught.value)
