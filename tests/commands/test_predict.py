"""``fcn-deploy predict``: pictures of every kind, and the model that is taken."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.data.scenes.render import draw_scene
from tests.command_line import FcnDeploy, refused


def test_broken_pictures_are_reported_and_the_rest_goes_on(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (30, 20)).save(pictures / "good.png")
    (pictures / "bad\x1b[31m.png").write_bytes(b"no")  # a terminal would turn red
    finished = fcn_deploy("predict", tiny_run, pictures, "--out", "masks").failed()
    assert len(finished.err.strip().splitlines()) == 1
    assert r"bad\x1b[31m.png is not a picture" in finished.err
    assert "wrote 1 of 2 masks" in finished.out
    assert (tmp_path / "masks/good.png").is_file()
    (pictures / "bad.png").write_bytes(b"no")
    refused(fcn_deploy("predict", tiny_run, pictures / "bad.png", "--out", "masks"), "bad.png")


def test_a_folder_s_other_files_are_counted_or_passed_over(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.jpg", "a.png", "b.gif"):
        Image.new("RGB", (30, 20)).save(pictures / name)
    (pictures / "b.gif").rename(pictures / "b.jfif")  # by its content, whatever its name
    (pictures / "phone.heic").write_bytes(b"no")
    (pictures / "._a.jpg").write_bytes(b"no")
    words = ("predict", tiny_run, pictures, pictures / "a.jpg", "--out", "masks")
    refused(fcn_deploy(*words), "a.jpg", "a.png", "would both be written", "--full-names")
    finished = fcn_deploy(*words, "--full-names", "--overlay").succeeded()
    assert "1 file passed over (.heic): save it as PNG or JPEG" in finished.out
    assert "wrote 3 of 3 masks" in finished.out
    names = ["a.jpg.png", "a.png.png", "b.jfif.png"]
    assert sorted(path.name for path in (tmp_path / "masks/overlays").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == names


def test_odd_pictures_are_handled(fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (5, 4)).save(tmp_path / "alpha.png")
    Image.new("L", (6, 4)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 7), 40_000, np.uint16)).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    names = ["alpha.png", "grey.png", "deep.png", "turned.jpg"]
    fcn_deploy("predict", tiny_run, *names, "--out", "masks").succeeded()
    sizes = [Image.open(tmp_path / "masks" / Path(n).with_suffix(".png")).size for n in names]
    assert sizes == [(5, 4), (6, 4), (7, 4), (4, 8)]


def test_predict_without_a_backend_names_the_export_where_pytorch_cannot_stand_in(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(tiny_run / "model.safetensors", run)
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    done = fcn_deploy("predict", run, "a.png", "--out", "masks")
    assert "(torch on " in done.out
    for precision in ("fp16", "int8"):
        refused(
            fcn_deploy("predict", run, "a.png", f"--{precision}"),
            f"model.{precision}.onnx",
            f"`fcn-deploy export {run} --{precision}`",
        )
    monkeypatch.setattr("fcn_deploy.networks.device._import_error", ImportError("no torch"))
    refused(fcn_deploy("predict", run, "a.png"), "model.onnx", f"`fcn-deploy export {run}`")


def test_halves_that_overflow_are_an_error_of_the_picture(
    fcn_deploy: FcnDeploy, overflowing: Path, tmp_path: Path
) -> None:
    Image.fromarray(draw_scene(3, 1, (64, 64))[0]).save(tmp_path / "a.png")
    words = ("predict", overflowing, "a.png", "--backend", "torch", "--out", "masks")
    fcn_deploy(*words).succeeded()
    (tmp_path / "masks/a.png").unlink()
    refused(fcn_deploy(*words, "--fp16"), "a.png: the network's logits are not finite")
    assert not (tmp_path / "masks/a.png").exists()


def test_fp16_asked_of_a_float32_file_is_refused(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    finished = fcn_deploy("predict", tiny_run / "model.onnx", "a.png", "--fp16", "--out", "m")
    refused(finished, "fp32", "--fp16")
