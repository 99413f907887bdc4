"""The contact sheet of predictions in the report."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.core.run import Run
from tests.fakes import FakeRunner
from tests.predict.jobs import draw, run_job
from tests.report.parsed_page import page_of


@pytest.fixture
def predicted(run: Run, tmp_path: Path) -> Run:
    """A run of predictions alone."""
    for number, name in enumerate("abcde"):
        draw(tmp_path / "in" / f"{name}.png", number, size=(60, 80))
    run_job([tmp_path / "in"], run.predictions, runner=FakeRunner(noise=3))
    return run


def test_each_picture_is_shown_with_its_mask(predicted: Run) -> None:
    page = page_of(predicted)
    assert sorted(page.values("alt")) == [f"{name}.png, with its mask" for name in "abcde"]
    assert "5 masks of pictures by fake fp32" in page.text
    assert page.text.count("uncertainty 0.") == 5
    assert all(name in page.text for name in ("background", "ochre"))
    assert "<em>" not in page.html
    assert len(set(page.values("src"))) == 5


def test_what_is_gone_or_changed_is_said_and_the_rest_is_shown(
    predicted: Run, tmp_path: Path
) -> None:
    (tmp_path / "in/a.png").write_bytes(b"no picture")
    os.utime(tmp_path / "in/b.png", ns=(1, 1))
    draw(tmp_path / "in/c.png", 2, size=(40, 80))
    (predicted.predictions / "d.png").unlink()
    Image.new("P", (2, 2)).save(predicted.predictions / "e.png")
    page = page_of(predicted)
    assert sorted(page.values("alt")) == [
        "b.png, with its mask", "d.png", "e.png", "mask of a.png", "mask of c.png",
    ]  # fmt: skip
    assert page.text.count("The picture cannot be read.") == 1
    assert page.text.count("The picture has changed since.") == 2
    assert page.text.count("The mask is gone.") == 2


def test_members_of_archives_and_names_of_any_kind(run: Run, tmp_path: Path) -> None:
    draw(tmp_path / "in/<b>.png", 1)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        packed.write(tmp_path / "in/<b>.png", "member.png")
    runner = FakeRunner(outputs=("mask",))
    run_job([tmp_path / "in", tmp_path / "in.zip"], run.predictions, runner=runner)
    page = page_of(run)
    assert sorted(page.values("alt")) == ["<b>.png, with its mask", "mask of member.png"]
    assert "It lies in an archive." in page.text
    assert "knows no uncertainties" in page.text
    assert "The least certain" not in page.text
