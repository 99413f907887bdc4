"""The shares of a film's classes over time, as a chart of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.report.films import MAX_POINTS, film_charts
from tests.report.parsed_page import page_of
from tests.result_files import metrics

HEAD = "frame,seconds,road,sky,never,error\n"


def test_a_film_is_drawn_over_time(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write_json(run.metrics, metrics())
    assert 'id="films"' not in page_of(run).html
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "other.csv").write_text("a,b\n1,2\n")
    rows = ["0,0.000000,0.25,0.75,0,", "1,0.5,,,,the frame is damaged", "2,1.0,0.5,0.5,0,"]
    (folder / "a <film>.csv").write_text(HEAD + "\n".join(rows) + "\n")
    page = page_of(run)
    assert "a <film>" in page.text
    assert "sky: 62.5% on average; road: 37.5% on average" in page.values("aria-label")
    (chart,) = film_charts(folder)
    assert [curve.name for curve in chart.curves] == ["sky", "road"]
    assert all(len(curve.segments) != 1 for curve in chart.curves)  # it breaks


def test_long_films_are_drawn_by_means(tmp_path: Path) -> None:
    rows = (f"{n},{n / 25:.6f},{n % 2},{1 - n % 2},0,\n" for n in range(4 * MAX_POINTS))
    (tmp_path / "a.csv").write_text(HEAD + "".join(rows))
    (chart,) = film_charts(tmp_path)
    (points,) = chart.curves[0].segments
    assert len(points) == MAX_POINTS
    assert len({y for _, y in points}) == 1


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEAD + "0,0.0,0.5\n")
    with pytest.raises(ArtifactError, match=r"a\.csv is no table of a film \(3 columns"):
        film_charts(tmp_path)
