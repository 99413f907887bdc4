"""Saved outputs: compared as if live, whole or not at all, and trusted no further than checked."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fcn_deploy.core.errors import ArtifactError, BatchShapeError, InputError
from fcn_deploy.core.spec import Precision
from fcn_deploy.data.dataset import NamedImage
from fcn_deploy.parity.compare import compare, compare_recordings, save
from fcn_deploy.parity.inputs import ODD_SIZES, Pictures
from fcn_deploy.parity.recording import read_recording
from fcn_deploy.parity.saved_outputs import record
from tests.candidates import as_candidate
from tests.fakes import FakeRunner
from tests.parity.comparisons import first_for_all, listed, made_up

OneLine = Callable[[Exception], str]


CANDIDATES = {
    "equal": FakeRunner(backend="other"),
    "rounding": FakeRunner(noise=0.05, precision=Precision.FP16),
    "wrong": FakeRunner(noise=1.0),
    "leaking": FakeRunner(bug=first_for_all),
}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two recordings of the same pictures."""
    paths = tmp_path / "ref.json", tmp_path / "cand.json"
    record(as_candidate(FakeRunner()), listed(made_up()), paths[0])
    record(as_candidate(CANDIDATES["rounding"]), listed(made_up()), paths[1])
    return paths


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("labelled", [True, False])
def test_recordings_compare_like_live_runners(name: str, labelled: bool, tmp_path: Path) -> None:
    pictures = [p if labelled else NamedImage(p.name, p.image) for p in made_up(2)]
    (live,) = compare(
        FakeRunner(), [as_candidate(CANDIDATES[name])], listed(pictures), can_rerun=False
    )
    mib = record(as_candidate(FakeRunner()), listed(pictures), tmp_path / "r.json")
    record(as_candidate(CANDIDATES[name]), listed(pictures), tmp_path / "c.json")
    result = compare_recordings(
        read_recording(tmp_path / "r.json"), read_recording(tmp_path / "c.json")
    )
    assert result == live
    written = [tmp_path / "r.json", *tmp_path.glob("r-*/*")]
    assert mib == pytest.approx(sum(path.stat().st_size for path in written) / 2**20)


def test_what_a_recording_says(pair: tuple[Path, Path]) -> None:
    document = json.loads(pair[1].read_text())
    assert (document["schema"], document["kind"]) == (4, "outputs")
    assert document["runner"]["precision"] == "fp16"
    uses = [entry["use"] for entry in document["pictures"]]
    batches = ["batch"] * (3 + 8)
    assert (
        uses
        == [*["picture"] * 3, *["odd size"] * len(ODD_SIZES), "large", *batches] + ["stream"] * 12
    )
    assert [len(batch["places"]) for batch in document["batches"]] == [3, 8]
    # All that was asked before, and eight batches more.
    assert len(document["stream"]) == len(ODD_SIZES) + 1 + 2 + 8
    with np.load(pair[1].parent / document["pictures"][0]["file"]) as arrays:
        assert set(arrays.files) == {"image", "mask", "logits", "truth"}


def test_the_result_names_both_machines(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for path, name in zip(pair, ("desk", "robot"), strict=True):
        change(path, lambda d, name=name: d["machine"].update(cpu=name))  # type: ignore[misc]
    reference, candidate = map(read_recording, pair)
    result = compare_recordings(reference, candidate)
    save([result], tmp_path / "out.json", recordings=(reference, candidate))
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["machine"]["cpu"] == "robot"
    assert document["reference_machine"]["cpu"] == "desk"
    assert {"versions", "reference_versions"} <= set(document)


def test_recording_again_replaces_the_folder_and_failing_keeps_it(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pair[0]
    notes = path.parent / "ref-notes"
    notes.mkdir()
    before = {p for p in path.parent.iterdir() if p.is_dir()}
    record(as_candidate(FakeRunner()), listed(made_up()), path)
    after = {p for p in path.parent.iterdir() if p.is_dir()}
    assert len(before - after) == len(after - before) == 1
    assert notes in after
    content = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ArtifactError, match=r"disk is full.*--save-outputs"):
        record(as_candidate(FakeRunner()), listed(made_up()), path)
    assert {p for p in path.parent.iterdir() if p.is_dir()} == after
    assert path.read_bytes() == content


def test_only_a_folder_of_its_own_is_removed(tmp_path: Path) -> None:
    kept = tmp_path / "photographs"
    kept.mkdir()
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"pictures": [{"file": "photographs/0.npz"}]}))
    record(as_candidate(FakeRunner()), listed(made_up(1)), path)
    assert kept.is_dir()


def other_pictures() -> Pictures:
    pictures = made_up()
    darker = NamedImage(pictures[1].name, pictures[1].image // 2)
    return listed([pictures[0], darker, pictures[2]])


def test_other_pictures_checkpoints_and_references_are_refused(
    pair: tuple[Path, Path], tmp_path: Path, one_line: OneLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, candidate = map(read_recording, pair)

    def said(one: Any, other: Any) -> str:
        with pytest.raises(InputError) as caught:
            compare_recordings(one, other)
        return one_line(caught.value)

    assert "fp16 outputs of fake, but the reference must be float32" in said(candidate, reference)
    record(as_candidate(FakeRunner()), other_pictures(), tmp_path / "other.json")
    assert "picture p1 of " in said(reference, read_recording(tmp_path / "other.json"))
    record(as_candidate(FakeRunner()), listed(made_up(2)), tmp_path / "fewer.json")
    assert "picture p2 of " in said(reference, read_recording(tmp_path / "fewer.json"))
    split = FakeRunner()
    described = replace(split.describe(), arithmetic="int8x3")
    monkeypatch.setattr(split, "describe", lambda: described)
    record(as_candidate(split), listed(made_up()), tmp_path / "split.json")
    reading = read_recording(tmp_path / "split.json")
    assert "fp32 outputs of fake, but" in said(reading, candidate)
    record(
        as_candidate(FakeRunner(checkpoint_digest="sha256:x")),
        listed(made_up()),
        tmp_path / "later.json",
    )
    assert "another checkpoint" in said(reference, read_recording(tmp_path / "later.json"))


def _escape(file: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["pictures"][0].update(file=file)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.update(kind="parity"), "holds no saved outputs"),
        (lambda d: d.update(schema=1), "has schema 1, this version reads 4"),
        (lambda d: d.pop("spec"), "is damaged"),
        (lambda d: d.update(spec=7), "is damaged"),
        (lambda d: d.update(spec="{}"), "spec is unreadable"),
        (lambda d: d.update(pictures=3), "is damaged"),
        (lambda d: d["runner"].update(precision="int4"), "is damaged"),
        (lambda d: d["runner"].pop("backend"), "is damaged"),
        (lambda d: d["runner"].update(threads="many"), "is damaged"),
        (lambda d: d["batches"][0].update(places=["sha256:x", "sha256:y"]), "names no pictures"),
        (lambda d: d.update(batches=[]), "names no pictures"),
        (lambda d: d["stream"].pop(5), "its stream is not whole"),
        (lambda d: d["pictures"].pop(3), "odd sizes are missing"),
        (lambda d: d.update(pictures=d["pictures"][3:]), "pictures or odd sizes are missing"),
        (_escape("../../etc/passwd"), "lies outside its folder"),
        (_escape("/etc/passwd"), "lies outside its folder"),
    ],
)
def test_damaged_json(
    edit: Callable[[dict[str, Any]], object], said: str, pair: tuple[Path, Path], one_line: OneLine
) -> None:
    change(pair[0], edit)
    with pytest.raises(ArtifactError) as caught:
        read_recording(pair[0])
    assert said in one_line(caught.value)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _pickled(path: Path) -> None:
    np.savez(path, mask=np.array([{}], dtype=object))


def _changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Harm one of the arrays of a file."""

    def harm(path: Path) -> None:
        with np.load(path) as content:
            arrays = dict(content)
        np.savez(path, **{**arrays, name: change(arrays[name])})

    return harm


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (Path.unlink, "no "),
        (_cut, "is damaged"),
        (_flip_a_byte, "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (_pickled, "is damaged"),
        (_changed("logits", lambda logits: logits[:-1]), "no array logits"),
        (_changed("mask", lambda mask: mask + np.uint8(9)), "unknown class"),
        (_changed("image", lambda image: 255 - image), "holds another picture"),
    ],
)
def test_damaged_arrays(
    harm: Callable[[Path], object], said: str, pair: tuple[Path, Path], one_line: OneLine
) -> None:
    first = json.loads(pair[0].read_text())["pictures"][0]["file"]
    harm(pair[0].parent / first)
    reference, candidate = map(read_recording, pair)
    with pytest.raises(ArtifactError) as caught:
        compare_recordings(reference, candidate)
    line = one_line(caught.value)
    assert said in line
    assert "--save-outputs" in line


def test_a_recorded_runner_answers_only_what_it_was_asked(pair: tuple[Path, Path]) -> None:
    with read_recording(pair[0]).runner() as runner:
        assert runner.spec == FakeRunner().spec
        with pytest.raises(BatchShapeError, match="no answer"):
            runner.run(np.zeros((1, 5, 7, 3), np.uint8))
        with pytest.raises(BatchShapeError, match="no answer"):
            runner.run(np.stack([picture.image for picture in made_up(2)]))


def test_nothing_to_record(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        record(as_candidate(FakeRunner()), listed([]), tmp_path / "r.json")
    with pytest.raises(InputError, match="logits"):
        record(as_candidate(FakeRunner(outputs=("mask",))), listed(made_up(1)), tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []
