"""Which predictions of a journal are chosen to be looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.predict.journal_head import JournalHead
from fcn_deploy.predict.journal_lines import key_of, line_of
from fcn_deploy.results.predictions import CHOSEN, Predictions, read_predictions

HEAD = JournalHead("sha256:0", "fp32", "fake", overlay=False, classes=("sky", "pole", "car"))


def line(name: str, size: int = 100, **about: Any) -> bytes:
    values = {"source": name, "mask": f"{name}.png", "size": [size, size], **about}
    return line_of(key_of(name, ""), 1, values)


def read(folder: Path, lines: Iterable[bytes], name: str = "predictions.jsonl") -> Predictions:
    (folder / name).write_bytes(HEAD.line() + b"".join(lines))
    found = read_predictions(folder)
    assert found is not None
    return found


def many() -> list[bytes]:
    """The n-th of 100 has n/1000 of pole, the first ten have 0.5 of car."""
    lines = []
    for n in range(100):
        car = {"car": 0.5} if n < 10 else {}
        shares = {"sky": 1 - n / 1000 - sum(car.values()), "pole": n / 1000, **car}
        lines.append(line(f"{n:02}", shares=shares, uncertainty=n % 50 / 50))
    return lines


def chosen(found: Predictions) -> list[tuple[str | None, str]]:
    return [(name, picture.source) for name, picture in found.chosen()]


def test_the_least_certain_come_first_then_the_rarest_classes(tmp_path: Path) -> None:
    found = read(tmp_path, many())
    uncertain = [f"{n:02}" for m in range(49, 43, -1) for n in (m, m + 50)]
    # Of a class the largest shares, without the pictures above; the rarest has a second turn.
    assert chosen(found) == [
        *((None, name) for name in uncertain),
        *(("pole", name) for name in ("93", "92", "91")),
        *(("car", name) for name in ("00", "01", "02")),
        *(("sky", name) for name in ("10", "11", "12")),
        *(("pole", name) for name in ("90", "89", "88")),
    ]
    assert next(found.classes()) == ("pole", pytest.approx(0.0495), 100)
    assert chosen(read(tmp_path, reversed(many()))) == chosen(found)


def test_without_uncertainties_all_are_of_rare_classes(tmp_path: Path) -> None:
    old = [text.replace(b"uncertainty", b"other") for text in many()]
    found = read(tmp_path, old)
    assert found.unknown == 100
    assert len({picture for name, picture in chosen(found) if name}) == CHOSEN
    assert len(chosen(read(tmp_path, old[:5]))) == 5


def test_all_journals_count_and_damaged_lines_do_not(tmp_path: Path) -> None:
    whole = line("a", shares={"sky": 1.0}, uncertainty=0.5)
    large = line("b", 1000, shares={"car": 1.0}, uncertainty=0.4)
    damaged = [
        b"\xff\n", b"[]\n", b'{"mask":"a.png"}\n', whole.replace(b'"sky":1.0', b'"sky":NaN'),
        whole.replace(b"[100,100]", b"[100]"), line("x").replace(b'"x.png"', b"null"), whole[:-9],
    ]  # fmt: skip
    film = line("f").replace(b"f.png", b"f.mkv")
    read(tmp_path, [film, *damaged], "predictions.0-of-2.jsonl")
    found = read(tmp_path, [large, whole, whole], "predictions.1-of-2.jsonl")
    assert (found.pictures, found.failed, found.others) == (3, 1, 1)
    assert chosen(found) == [(None, "a"), (None, "b")]  # though one stands in two lines
    assert [name for name, _, _ in found.classes()] == ["sky", "car"]  # by their pixels


def test_a_folder_without_a_journal_and_a_file_that_is_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path / "not there") is None
    for content in (b"", b"{", b"[]\n", b'{"kind":"predictions","schema":2}\n'):
        (tmp_path / "predictions.jsonl").write_bytes(content)
        with pytest.raises(ArtifactError, match="does not begin as a journal does"):
            read_predictions(tmp_path)
