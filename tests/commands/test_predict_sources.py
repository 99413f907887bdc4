"""``fcn-deploy predict`` as typed: lists, resuming, shards."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from fcn_deploy.commands import predict, predict_progress
from fcn_deploy.core.errors import MissingStageError
from fcn_deploy.core.run import Run
from tests.command_line import FcnDeploy, refused
from tests.predict.jobs import journal_lines, masks_of


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "cam1/b.png", "cam2/b.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + number, 16)).save(folder / name)
    return folder


def test_a_run_is_resumed_and_bound_to_its_model(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path
) -> None:
    words = ("predict", tiny_run, pictures, "--recursive", "--out", "masks")
    finished = fcn_deploy(*words).succeeded()
    assert "wrote 3 of 3 masks to masks (ort on cpu)" in finished.out
    assert "pictures/s" in finished.out
    Image.new("RGB", (30, 16)).save(pictures / "c.png")
    resumed = fcn_deploy(*words, "--resume")
    assert "3 of 4 pictures were finished before" in resumed.out
    assert "wrote 1 of 1 masks" in resumed.out
    refused(
        fcn_deploy(*words, "--resume", "--fp16"),
        "of another model (ort fp32", "not of this one (ort fp16", "drop --resume",
    )  # fmt: skip
    anew = fcn_deploy(*words, "--fp16")
    assert "masks/predictions.jsonl is begun anew" in anew.out
    assert "wrote 4 of 4 masks" in anew.out
    head = json.loads(Path("masks/predictions.jsonl").read_text().splitlines()[0])
    assert head["precision"] == "fp16"
    assert Path("masks/cam1/b.png").is_file()
    Image.new("RGB", (31, 16)).save(pictures / "d.png")
    gone_on = fcn_deploy(*words, "--resume")  # no backend and no precision named
    assert "backend: ort --fp16, as in masks/predictions.jsonl" in gone_on.out
    assert "4 of 5 pictures were finished before" in gone_on.out
    assert "wrote 1 of 1 masks" in gone_on.out
    refused(fcn_deploy(*words, "--resume", "--backend", "ort"), "of another model (ort fp16")


def test_with_uncertainties_masks_are_the_same_and_the_report_shows_them(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path
) -> None:
    words = ("predict", tiny_run, pictures, "--recursive", "--out")
    for out in (["plain"], ["measured", "--uncertainty"]):
        fcn_deploy(*words, *out).succeeded()
    assert masks_of(Path("plain")) == masks_of(Path("measured"))
    assert all(0 < line["uncertainty"] < 1 for line in journal_lines(Path("measured")))
    fcn_deploy("report", tiny_run, "--predictions", "measured", "--out", "page.html")
    assert "The least certain" in Path("page.html").read_text()
    refused(fcn_deploy("report", tiny_run, "--predictions", "."), "no predictions.jsonl in")


def test_names_on_standard_input_are_shared_out(
    fcn_deploy: FcnDeploy, tiny_run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "".join(f"{path}\n" for path in sorted(pictures.rglob("*.png")))
    written = 0
    for index in range(2):
        stdin = io.TextIOWrapper(io.BytesIO(names.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        words = ("predict", tiny_run, "-", "--full-names", "--out", "masks")
        fcn_deploy(*words, "--shard", f"{index}/2", "--resume").succeeded()
        journal = Path(f"masks/predictions.{index}-of-2.jsonl").read_text().splitlines()
        written += len(journal) - 1
    assert written == 3
    masks = sorted(path.relative_to("masks").as_posix() for path in Path("masks").rglob("*.png"))
    assert masks == ["a.png.png", "cam1/b.png.png", "cam2/b.png.png"]
    refused(fcn_deploy("predict", tiny_run, pictures, "--shard", "2/2"), "--shard 2/2", "0/4")


@pytest.mark.parametrize("first", ["@list", "in/*", "-"])
def test_a_list_or_a_pattern_is_no_run(first: str) -> None:
    run, words = predict._split_run((first, "more"))
    assert (run.root, words) == (Run.from_argument(None).root, (first, "more"))
    with pytest.raises(MissingStageError, match="no run mistyped"):
        predict._split_run(("mistyped", "more"))


def test_a_log_has_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with predict_progress.progress(10) as step:
        for _ in range(4):
            now[0] += 30
            step()
    assert capsys.readouterr().out.splitlines() == [
        "2 of 10, 0.0 pictures/s, 0:04:00 left",
        "4 of 10, 0.0 pictures/s, 0:03:00 left",
    ]
