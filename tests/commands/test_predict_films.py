"""``fcn-deploy predict film.mp4`` as typed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command_line import FcnDeploy, refused
from tests.predict.films import decoded, masks_in, write_film


def test_a_film_becomes_masks_a_table_and_an_overlay(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    write_film(tmp_path / "a.mkv", range(0, 240, 40), broken=(3,))
    words = ("predict", tiny_run, "a.mkv", "--out", "masks", "--backend", "ort", "--overlay")
    done = fcn_deploy(*words)
    assert done.code == 0, done.err
    assert "wrote the masks of 1 of 1 films to masks (ort on cpu)" in done.out
    assert "frames/s" in done.out
    assert "a.mkv: 1 of 6 frames are broken and have no mask" in done.err
    assert list(masks_in(Path("masks/a.mkv"))) == [0, 40, 80, 160, 200]
    assert list(decoded(Path("masks/overlays/a.mkv"))) == [0, 40, 80, 160, 200]
    again = fcn_deploy(*words, "--resume")
    assert "1 of 1 films were finished before" in again.out
    assert again.code == 0


def test_what_cannot_be_read_ends_with_one_line(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    begin = ("predict", tiny_run, "--out", "masks", "--backend", "ort")
    done = fcn_deploy(*begin, "a.mp4")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a.mp4 cannot be read as a film" in done.err
    write_film(tmp_path / "b.mp4", range(2))
    assert fcn_deploy(*begin, "a.mp4", "b.mp4").code == 1
    for words, why in (
        (("b.mp4", "--recursive"), "--recursive does not go with b.mp4, a film; drop --recursive"),
        (("b.mp4", "--seconds", "2"), "--seconds does not go with b.mp4, a film"),
        (("masks", "--frames"), "--frames does not go with masks, no film"),
        (("camera:0", "--batch", "2"), "--batch does not go with camera:0, a live source"),
        (("rtsp://u:key@cam/1", "--batch", "2"), "--batch does not go with rtsp://cam/1, a live"),
        (("rtsp://u:key@cam:55x4/1",), "the address of the stream is none"),
        (("b.mp4", "masks"), "name films and pictures in runs of their own"),
        (("c.mp4",), "no such file"),
    ):
        refused(fcn_deploy(*begin, *words), why)


def test_ctrl_c_ends_a_live_source(
    fcn_deploy: FcnDeploy, monkeypatch: pytest.MonkeyPatch, tiny_run: Path
) -> None:
    from fcn_deploy.predict.video import job
    from tests.predict.test_live import Camera

    class Interrupted(Camera):
        def seconds(self, stamp: int | None) -> float | None:
            os.kill(os.getpid(), signal.SIGINT)  # once: a second one would abort
            self.seconds = super().seconds  # type: ignore[method-assign]
            return self.seconds(stamp)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(job, "Film", Interrupted(1))
    done = fcn_deploy("predict", tiny_run, "rtsp://door/1", "--out", "masks", "--backend", "ort")
    assert done.code == 0, done.err
    (film,) = Path("masks").glob("door-1-*.mkv")
    assert len(masks_in(film)) == 1
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_masks_of_600_frames_are_those_of_the_extracted_pictures(
    fcn_deploy: FcnDeploy, tiny_run: Path, tmp_path: Path
) -> None:
    film = write_film(
        tmp_path / "a.mp4", range(0, 24000, 40), codec="libx264", rotation=(90, False, False),
        broken=(300,),
    )  # fmt: skip
    Path("frames").mkdir()
    for stamp, frame in decoded(film).items():
        Image.fromarray(np.rot90(frame)).save(f"frames/{stamp:09}.png")
    for source, out in (("a.mp4", "film"), ("frames", "pictures")):
        done = fcn_deploy(
            "predict", tiny_run, source, "--out", out, "--backend", "ort", "--batch", "4"
        )
        assert done.code == 0, done.err
        print(done.out)
    masks = list(masks_in(Path("film/a.mkv")).values())
    pictures = sorted(Path("pictures").glob("*.png"))
    assert len(masks) == len(pictures) == 599
    for path, mask in zip(pictures, masks, strict=True):
        with Image.open(path) as image:
            assert np.array_equal(np.asarray(image), mask)
    line = json.loads(Path("film/predictions.jsonl").read_text().splitlines()[1])
    assert (line["frames"], line["broken"], line["size"]) == (599, 1, [64, 48])
