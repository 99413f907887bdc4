"""`bundle`: what goes into it, what is missing, and that equal runs give equal bytes."""

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from fcn_deploy.bundle.contents import gather
from fcn_deploy.bundle.extraction import holds_files
from fcn_deploy.bundle.manifest import BUNDLE_SCHEMA, Manifest
from fcn_deploy.bundle.verification import VERIFY_SCHEMA
from fcn_deploy.core.errors import BundleError, InputError, MissingStageError
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.data.images import image_digest
from fcn_deploy.parity.inputs import unlabelled_pictures
from tests.bundle.archives import contents_of
from tests.bundle.conftest import Bundled
from tests.command_line import FcnDeploy, refused
from tests.result_files import as_failed, editing


@pytest.fixture
def run(bundled: Bundled, tmp_path: Path) -> Run:
    """A copy of the run."""
    shutil.copytree(bundled.run.root, tmp_path / "runs" / "fcn")
    return Run(tmp_path / "runs" / "fcn")


def test_equal_runs_give_equal_bytes(fcn_deploy: FcnDeploy, bundled: Bundled, run: Run) -> None:
    done = fcn_deploy(
        "bundle", "--pictures", bundled.pictures, "--out", "model.fcnd.zip"
    ).succeeded()
    assert "not signed" in done.out
    first = Path("model.fcnd.zip").read_bytes()
    fcn_deploy("bundle", "--pictures", bundled.pictures, "--out", "model.fcnd.zip").succeeded()
    assert Path("model.fcnd.zip").read_bytes() == first


def test_what_it_holds(bundled: Bundled) -> None:
    contents = contents_of(bundled.bundle)
    assert list(contents)[:3] == ["fcn-deploy.json", "README.md", "Kitfile"]
    assert {"model.onnx", "original.onnx", "original.json", "parity/ort.json"} <= contents.keys()
    manifest = json.loads(contents["fcn-deploy.json"])
    assert manifest["schema"] == 1
    assert manifest["onnx"][0]["proven_by"] == ["ort"]
    assert manifest["class_names"] == ["class 0", "class 1", "class 2", "class 3"]
    assert manifest["files"].keys() == contents.keys() - {"fcn-deploy.json"}
    assert str(bundled.run.root) not in contents["README.md"].decode()
    card = contents["README.md"].decode()
    assert card.startswith("---\nmodel_name: ")
    assert "license: unknown" in card
    assert "| ort fp32 | 3 | 0 of " in card
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-segmentation"
    kitfile = yaml.safe_load(contents["Kitfile"])
    assert kitfile["model"]["path"] == "model.onnx"


def test_what_is_missing_is_named_with_its_command(
    fcn_deploy: FcnDeploy, bundled: Bundled, run: Run
) -> None:
    pictures = ("--pictures", bundled.pictures)
    refused(fcn_deploy("bundle", *pictures, "--out", "x.zip"), "NAME.fcnd.zip")
    refused(fcn_deploy("bundle"), "--data DIR", "--pictures DIR")
    shutil.rmtree(run.parity_folder)
    refused(fcn_deploy("bundle", *pictures), "has passed", "run `fcn-deploy parity` first")
    run.original_record.unlink()
    (run.root / "model.onnx").unlink()
    refused(fcn_deploy("bundle", *pictures), "no runs/fcn/model.onnx", "fcn-deploy export")
    assert not list(Path().glob("*.zip"))


def test_the_newest_verdict_on_a_backend_counts(run: Run) -> None:
    file = run.parity_folder / "ort.json"
    failed = as_failed(read_json(file, ""))
    write_json(run.parity_folder / "older.json", failed | {"created": "2001-01-01T00:00:00+00:00"})
    assert gather(run).onnx[0].proven_by == ("ort",)
    write_json(run.parity_folder / "newer.json", failed | {"created": "2999-01-01T00:00:00+00:00"})
    with pytest.raises(MissingStageError, match="has passed"):
        gather(run)
    # No more does one that failed and stands alone.
    shutil.rmtree(run.parity_folder)
    write_json(file, failed)
    with pytest.raises(MissingStageError, match="has passed"):
        gather(run)


def test_what_a_bundle_was_made_of(bundled: Bundled, tmp_path: Path) -> None:
    files = gather(bundled.run).files()
    pictures = [image_digest(one.image) for one in unlabelled_pictures(bundled.pictures)]

    def holds(bundle: Path, files: Mapping[str, Path], pictures: list[str]) -> bool:
        return holds_files(bundle, files, pictures=pictures, key=None)

    assert holds(bundled.bundle, files, pictures)
    for other in (pictures[:2], pictures[::-1]):
        assert not holds(bundled.bundle, files, other)
    for name, source in (("parity/new.json", "model.onnx"), ("model.onnx", "original.onnx")):
        assert not holds(bundled.bundle, {**files, name: files[source]}, pictures)
    content = bytearray(bundled.bundle.read_bytes())
    content[content.index(b"certificate/00000.png\x89PNG") + 100] ^= 1
    (tmp_path / "damaged.fcnd.zip").write_bytes(content)
    with pytest.raises(BundleError, match=r"00000\.png is damaged"):
        holds(tmp_path / "damaged.fcnd.zip", files, pictures)


def test_results_of_another_checkpoint_are_left_behind(run: Run) -> None:
    shutil.copy(run.parity_folder / "ort.json", run.parity_folder / "older than this.json")
    with editing(run.parity_folder / "older than this.json") as document:
        document["results"][0]["candidate"]["checkpoint_digest"] = "sha256:older"
    found = gather(run)
    assert [file.environment.file for file in found.parity_files] == ["parity/ort.json"]


def test_names_of_results_are_made_plain(run: Run) -> None:
    source = run.parity_folder / "ort.json"
    for name in ("ort a b.json", "ort a_b.json", "ört.json"):
        shutil.copy(source, run.parity_folder / name)
    names = [name for name in gather(run).files() if name.startswith("parity/")]
    assert sorted(names) == [
        "parity/_rt.json", "parity/ort.json", "parity/ort_a_b.json", "parity/ort_a_b_.json",
    ]  # fmt: skip


def test_a_single_file_is_no_run(run: Run) -> None:
    with pytest.raises(InputError, match="is no run"):
        gather(Run.from_argument(run.root / "model.onnx"))


def test_signing_needs_its_packages(
    fcn_deploy: FcnDeploy, bundled: Bundled, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    done = fcn_deploy("bundle", "--pictures", bundled.pictures, "--sign", "k.pem")
    refused(done, "pip install 'fcn-deploy[sign]'")
    assert not list(Path().glob("*.zip"))


def test_the_page_on_bundles_gives_the_schemas_that_are_written() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bundles.md").read_text(encoding="utf-8")
    assert f"`fcn-deploy.json` has schema {BUNDLE_SCHEMA} and" in page
    assert f"writes the result: schema {VERIFY_SCHEMA}," in page
    for field in fields(Manifest):
        assert f"`{field.name}`" in page or field.name == "spec"


@pytest.mark.slow
def test_a_run_that_pytorch_trained(
    fcn_deploy: FcnDeploy,
    bundled: Bundled,
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(tiny_run, "runs/fcn")
    pictures = ("--images", bundled.pictures)
    fcn_deploy("parity", *pictures, "--backend", "ort").succeeded()
    done = fcn_deploy("bundle", "--pictures", bundled.pictures).succeeded()
    assert "left out: no comparison of runs/fcn/model.fp16.onnx has passed" in done.out
    first = Path("fcn.fcnd.zip").read_bytes()
    fcn_deploy("bundle", "--pictures", bundled.pictures).succeeded()
    assert Path("fcn.fcnd.zip").read_bytes() == first
    assert "model.safetensors" not in contents_of(Path("fcn.fcnd.zip"))
    fcn_deploy("verify", "fcn.fcnd.zip", "--run", "--backend", "ort").succeeded()
    # PyTorch is here, and the bundle brings no checkpoint.
    done = fcn_deploy("parity", "fcn.fcnd.zip", *pictures, "--backend", "ort")
    refused(done, "brought no masks for other pictures")
    picture = next(iter(bundled.pictures.iterdir()))
    done = fcn_deploy("predict", "fcn.fcnd.zip", picture, "--backend", "torch")
    refused(done, "is a bundle and holds no checkpoint")
