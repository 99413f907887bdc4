"""A bundle in place of a run: extracted once, checked each time, results where one finds them."""

import os
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest

from fcn_deploy.bundle import cache
from fcn_deploy.bundle.cache import open_bundle
from fcn_deploy.core.files import read_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from tests.bundle.archives import contents_of
from tests.bundle.conftest import Bundled
from tests.command_line import FcnDeploy, refused


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_it_is_extracted_once(bundle: Path) -> None:
    run = open_bundle(bundle)
    assert run.bundle == bundle
    assert (run.root / "model.onnx").is_file()
    before = times(run.root)
    assert open_bundle(bundle) == run
    assert times(run.root) == before
    assert list(run.root.parent.iterdir()) == [run.root]


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "link", "manifest"])
def test_what_was_extracted_is_checked_before_each_use(damage: str, bundle: Path) -> None:
    run = open_bundle(bundle)
    file = run.root / "model.onnx"
    content = file.read_bytes()
    if damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    elif damage == "added":
        (run.root / "model.safetensors").write_bytes(b"another network")
    elif damage == "manifest":
        (run.root / "fcn-deploy.json").write_text("{}")
    else:
        elsewhere = bundle.with_name("elsewhere.onnx")
        elsewhere.write_bytes(content)
        file.unlink()
        file.symlink_to(elsewhere)
    again = open_bundle(bundle)
    assert again == run
    assert file.read_bytes() == content
    assert not file.is_symlink()
    assert not (run.root / "model.safetensors").exists()
    assert (run.root / "fcn-deploy.json").read_bytes() == contents_of(bundle)["fcn-deploy.json"]
    assert list(run.root.parent.iterdir()) == [run.root]


def test_of_two_at_once_both_get_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both extract, and wait for each other before either moves its folder into place."""
    both, extract = threading.Barrier(2, timeout=60), cache.extract

    def slow(*words: Path, **options: str) -> object:
        found = extract(*words, **options)
        both.wait()
        return found

    monkeypatch.setattr(cache, "extract", slow)
    found: list[Run] = []
    threads = [threading.Thread(target=lambda: found.append(open_bundle(bundle))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert list(found[0].root.parent.iterdir()) == [found[0].root]
    assert (found[0].root / "model.onnx").is_file()


def test_a_cache_that_cannot_be_written(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", "file")
    refused(fcn_deploy("predict", bundle, "x.png"), "cannot write", "XDG_CACHE_HOME")


def test_a_user_without_a_home_is_told_to_choose_a_place(
    fcn_deploy: FcnDeploy, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_home = Mock(side_effect=RuntimeError("Could not determine home directory."))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("fcn_deploy.bundle.cache.Path.home", no_home)
    done = fcn_deploy("predict", bundle, "x.png")
    refused(done, "there is none", "choose another place with XDG_CACHE_HOME")


def test_what_was_never_proven_here_names_the_command_that_does(
    fcn_deploy: FcnDeploy, bundle: Path, bundled: Bundled
) -> None:
    done = fcn_deploy("predict", "model.fcnd.zip", bundled.pictures)
    assert "(`fcn-deploy verify model.fcnd.zip --run` finds the fastest)" in done.out


def test_predict_gives_the_masks_of_the_run(
    fcn_deploy: FcnDeploy, bundle: Path, bundled: Bundled
) -> None:
    done = fcn_deploy("predict", bundle, bundled.pictures).succeeded()
    assert f"to {bundle.with_suffix('')}/predictions" in done.out
    fcn_deploy("predict", bundled.run.root, bundled.pictures, "--out", "direct").succeeded()
    masks = sorted(Path("direct").glob("*.png"))
    assert len(masks) == 3
    for mask in masks:
        assert (Path("model.fcnd/predictions") / mask.name).read_bytes() == mask.read_bytes()


def test_parity_holds_it_against_the_masks_inside(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    fcn_deploy("parity", "model.fcnd.zip", "--backend", "ort").succeeded()
    document = read_json(Path("model.fcnd/parity/ort.fp32.json"), "")
    assert document["results"][0]["images"]["count"] == 3
    # The report shows what came in the bundle, and what was made here.
    fcn_deploy("report", "model.fcnd.zip").succeeded()
    page = Path("model.fcnd/report.html").read_text()
    assert "parity/ort.json" in page
    assert "model.fcnd/parity/ort.fp32.json" in page


@pytest.mark.slow
def test_bench_writes_beside_it(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    fcn_deploy(
        "bench", "model.fcnd.zip", "--quick", "--backend", "ort", "--size", "24x40",
        "--no-cold-start", "--seconds", "0.01", "--repeats", "3",
    ).succeeded()  # fmt: skip
    (file,) = Path("model.fcnd/bench").glob("*.json")
    rows = read_json(file, "")["rows"]
    assert {row["runner"]["backend"] for row in rows} >= {"ort"}


def test_what_a_bundle_is_not_for(fcn_deploy: FcnDeploy, bundle: Path, bundled: Bundled) -> None:
    picture = next(iter(bundled.pictures.iterdir()))
    refused(fcn_deploy("predict", bundle, picture, "--int8"), "holds no model.int8.onnx")
    refused(fcn_deploy("bundle", bundle), "is no run")


def test_a_run_of_a_bundle_says_what_the_user_calls_it(bundle: Path) -> None:
    run = Run(Path("/cache/abc"), bundle=Path("there/model.fcnd.zip"))
    assert run.command_suffix == " there/model.fcnd.zip"
    assert run.name == "model"
    assert run.bench_folder == Path("there/model.fcnd/bench")
    assert run.onnx(Precision.FP32) == Path("/cache/abc/model.onnx")


def test_the_cache_is_private(bundle: Path) -> None:
    run = open_bundle(bundle)
    if os.name == "posix":
        assert run.root.stat().st_mode & 0o077 == 0


def test_triton_takes_the_model_of_a_bundle(fcn_deploy: FcnDeploy, bundle: Path) -> None:
    fcn_deploy("package", "triton", "model.fcnd.zip", "--out", "repository").succeeded()
    (file,) = Path("repository").rglob("model.onnx")
    assert file.read_bytes() == (open_bundle(bundle).root / "model.onnx").read_bytes()
    assert Path("repository/model/config.pbtxt").is_file()
