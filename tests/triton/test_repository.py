"""What a repository holds besides its configuration, and how it comes to its place."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from fcn_deploy.core.errors import ArtifactError, EngineError, InputError, MissingStageError
from fcn_deploy.core.files import file_digest
from fcn_deploy.core.spec import Precision, Product
from fcn_deploy.tensorrt.engine_file import read_engine, sidecar_path
from fcn_deploy.triton import repository
from fcn_deploy.triton.containers import TENSORRT_TAGS, container_tag
from fcn_deploy.triton.model import ServedModel
from fcn_deploy.triton.repository import write_repository
from tests.tensorrt import engine_files
from tests.tensorrt.engine_files import sidecar_of, write_sidecar
from tests.triton.packages import built, exported

plan = engine_files.plan


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    """An exported file."""
    return exported(tmp_path / "run")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def service(folder: Path) -> dict[str, Any]:
    """Return the service of a Compose file."""
    found: dict[str, Any] = yaml.safe_load((folder / "compose.yaml").read_text())
    (only,) = found["services"].values()
    assert isinstance(only, dict)
    return only


def files_of(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_an_exported_file(tmp_path: Path, model: ServedModel, out: Path) -> None:
    out = tmp_path / "deep" / "out"
    packaged = write_repository(model, out, name="road.v2", max_batch=4)
    assert (packaged.name, packaged.max_batch) == ("road.v2", 4)
    assert files_of(out) == [
        "README.md",
        "compose.yaml",
        "road.v2/1/model.onnx",
        "road.v2/config.pbtxt",
        "road.v2/labels.txt",
    ]
    assert file_digest(out / "road.v2/1/model.onnx") == model.digest
    assert (out / "road.v2/labels.txt").read_text() == "a\nb\nc\nd\ne\n"
    readme = (out / "README.md").read_text()
    assert "| 4 | e | 4, 0, 0 |" in readme
    assert 'client.infer("road.v2", [image])' in readme
    assert model.digest in readme
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_compose_file_of_an_exported_file_runs_on_a_cpu(model: ServedModel, out: Path) -> None:
    write_repository(model, out, name="m")
    found = service(out)
    assert re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", found["image"])
    assert found["command"] == ["tritonserver", "--model-repository=/models"]
    assert found["volumes"] == [".:/models:ro"]
    assert all(port.startswith("127.0.0.1:") for port in found["ports"])
    assert "deploy" not in found  # of a GPU, which need not be there
    text = (out / "compose.yaml").read_text()
    opened = re.sub(r"^    #(?=deploy|  )", "    ", text, flags=re.MULTILINE)
    devices = yaml.safe_load(opened)["services"]["triton"]["deploy"]["resources"]["reservations"]
    assert devices["devices"][0]["capabilities"] == ["gpu"]


def test_an_engine_comes_with_its_sidecar_and_says_where_it_belongs(plan: Path, out: Path) -> None:
    write_repository(built(plan), out, name="m")
    assert read_engine(out / "m/1/model.plan") == read_engine(plan)
    readme = (out / "README.md").read_text()
    sidecar = sidecar_of(plan)
    for words in (
        "TensorRT 10.16.1.11", "sm89, built on NVIDIA L4", sidecar.system, "CUDA 13.0",
        sidecar.command, "32×32 to 96×128", sidecar.onnx_digest,
    ):  # fmt: skip
        assert words in readme
    found = service(out)
    assert found["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_where_no_container_is_known_compose_asks_for_one(plan: Path, out: Path) -> None:
    assert "10.16.1.11" not in TENSORRT_TAGS
    assert container_tag(built(plan)) is None
    write_repository(built(plan), out, name="m")
    image = service(out)["image"]
    assert image.startswith("nvcr.io/nvidia/tritonserver:${TRITON_TAG:?")
    assert "10.16.1.11" in image
    readme = (out / "README.md").read_text()
    assert "No container is known that has TensorRT 10.16.1.11" in readme
    assert "TRITON_TAG=YY.MM-py3 docker compose up" in readme


@pytest.mark.parametrize(
    ("version", "portable", "tag"),
    [
        ("10.7.0.23", None, "24.12-py3"),
        ("10.7.0", None, "24.12-py3"),  # as TensorRT's module tells it
        ("8.6.3.1", None, "24.02-py3"),
        ("8.6.1.6", None, None),
        ("10.4.0.26", None, None),
        ("10.4.0.26", "version", "24.10-py3"),  # the next one, which runs it as well
        ("10.16.1.11", "version", None),
        ("10.4.0.26", "ampere+", None),
    ],
)
def test_the_container_has_the_release_of_the_engine(
    plan: Path, version: str, portable: str | None, tag: str | None
) -> None:
    # The header of this plan tells another release, which read_engine would refuse.
    sidecar = replace(sidecar_of(plan), version=version, flags={"portable": portable})
    model = replace(built(plan), engine=sidecar)
    assert container_tag(model) == tag


def test_triton_is_told_of_a_version_compatible_engine(plan: Path, out: Path) -> None:
    write_sidecar(plan, replace(sidecar_of(plan), flags={"portable": "version"}))
    write_repository(built(plan), out, name="m")
    option = "--backend-config=tensorrt,version-compatible=true"
    assert option in service(out)["command"]
    assert option in (out / "README.md").read_text()


def test_engines_that_triton_does_not_run_are_refused(plan: Path) -> None:
    engine = sidecar_of(plan)
    write_sidecar(plan, replace(engine, system="Windows AMD64"))
    with pytest.raises(EngineError, match="Triton's containers are Linux"):
        built(plan)
    plan.write_bytes(engine_files.plan_bytes(b"vtrt"))
    write_sidecar(plan, replace(sidecar_of(plan), product=Product.RTX))
    with pytest.raises(EngineError, match="TensorRT for RTX, which Triton has no backend for"):
        built(plan)
    sidecar_path(plan).unlink()
    with pytest.raises(MissingStageError, match="has no sidecar"):
        built(plan)


def test_an_int8_file_says_that_masks_may_differ_on_a_cpu(tmp_path: Path) -> None:
    for precision in (Precision.INT8, Precision.FP16):
        out = tmp_path / precision.value
        write_repository(exported(tmp_path / "run", precision=precision), out, name="m")
        told = "rewrites an INT8 network" in (out / "README.md").read_text()
        assert told == (precision is Precision.INT8)


@pytest.mark.parametrize(
    "name",
    ["", "a b", "../up", "-m", ".hidden", "a/b", "ö", "m" * 129, "README.md", "compose.yaml"],
)
def test_names_that_no_directory_or_url_takes_are_refused(
    name: str, model: ServedModel, out: Path
) -> None:
    with pytest.raises(InputError, match="cannot be the name of a model"):
        write_repository(model, out, name=name)
    assert not out.exists()


def test_a_folder_in_use_is_refused_and_a_repository_replaced_where_it_is_asked(
    tmp_path: Path, model: ServedModel, out: Path
) -> None:
    out.mkdir()
    write_repository(model, out, name="one")  # an empty folder is a free one
    with pytest.raises(ArtifactError, match="holds a repository already"):
        write_repository(model, out, name="two")
    write_repository(model, out, name="two", overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "compose.yaml", "two"]
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match="holds something else"):
            write_repository(model, out, name="three", overwrite=overwrite)
    assert (out / "notes.txt").read_text() == "mine"
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else"):
        write_repository(model, file, name="m", overwrite=True)


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_leaves_what_was_there(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ServedModel, out: Path
) -> None:
    if existing:
        write_repository(model, out, name="one")
    before = files_of(tmp_path)

    def full(*arguments: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(repository, "compose_text", full)
    with pytest.raises(ArtifactError, match="disk is full"):
        write_repository(model, out, name="two", overwrite=True)
    assert files_of(tmp_path) == before


def test_where_the_last_step_fails_the_older_repository_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ServedModel, out: Path
) -> None:
    write_repository(model, out, name="one")
    before, move = files_of(tmp_path), os.replace

    def fail_once(source: Path, target: Path) -> None:
        if target == out and not source.name.endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        move(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(ArtifactError, match="cannot write"):
        write_repository(model, out, name="two", overwrite=True)
    assert files_of(tmp_path) == before


def test_a_file_that_changes_while_it_is_copied_is_noticed(model: ServedModel, out: Path) -> None:
    model.source.write_bytes(model.source.read_bytes() + b"more")
    with pytest.raises(ArtifactError, match="changed while it was copied"):
        write_repository(model, out, name="m")
    assert not out.exists()
