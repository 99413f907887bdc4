"""The CSV files that `predict` writes of films → a chart each: shares of the classes over time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.report.chart_layout import WIDE_FRAME, Axis, Chart, Series, line_chart
from fcn_deploy.report.charts import NUM_STYLES
from fcn_deploy.report.ticks import round_ticks

#: Most films of a page, and most points of a curve: each is the mean of as many frames.
MAX_FILMS, MAX_POINTS = 20, 240
_FIRST_COLUMNS, _LAST_COLUMN = ["frame", "seconds"], "error"


def film_charts(folder: Path) -> list[Chart]:
    """Lay out the films whose CSV lies in a folder, by name; a damaged one is an ArtifactError."""
    found = (_chart(path) for path in sorted(folder.glob("*.csv")) if path.name[0] != ".")
    return list(islice(filter(None, found), MAX_FILMS))


def _chart(path: Path) -> Chart | None:
    """Return None for a file of others, and for a film without times."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            head = next(rows, [])
            if head[:2] != _FIRST_COLUMNS or head[-1:] != [_LAST_COLUMN] or len(head) < 4:
                return None
            figures = np.array(list(_figures(rows, len(head))))  # (frames, 1 + classes)
    except (OSError, ValueError, csv.Error) as error:
        raise ArtifactError(
            f"{path} is no table of a film ({error})",
            "run `fcn-deploy predict` again, or delete it",
        ) from error
    return _laid_out(path.stem, head[2:-1], figures) if len(figures) else None


def _figures(rows: Iterator[list[str]], columns: int) -> Iterator[list[float]]:
    for row in rows:
        if len(row) != columns:
            raise ValueError(f"{len(row)} columns in place of {columns}")
        if row[1]:  # a broken frame may have no time
            yield [float(value) if value else np.nan for value in row[1:-1]]


def _laid_out(name: str, classes: list[str], figures: NDArray[np.float64]) -> Chart | None:
    if np.isnan(figures[:, 1:]).all():
        return None
    known = np.nanmean(figures[:, 1:], axis=0)
    parts = np.array_split(figures, min(len(figures), MAX_POINTS))
    points = np.stack([_mean(part) for part in parts])
    times, shares = points[:, 0], points[:, 1:]
    largest = [int(i) for i in np.argsort(-known, kind="stable") if known[i] > 0][:NUM_STYLES]
    more = int(np.count_nonzero(known > 0)) - len(largest)
    return line_chart(
        name + (f": the {NUM_STYLES} largest classes, of {NUM_STYLES + more}" if more else ""),
        "; ".join(f"{classes[i]}: {known[i]:.1%} on average" for i in largest),
        [
            Series(
                classes[index],
                f"s{place % NUM_STYLES + 1}",
                tuple(
                    (time, None if np.isnan(share) else share)
                    for time, share in zip(times.tolist(), shares[:, index].tolist(), strict=True)
                ),
            )
            for place, index in enumerate(largest)
        ],
        Axis(tuple(round_ticks(times[0], times[-1])), "{:.4g}".format),
        Axis(tuple(round_ticks(0, float(np.nanmax(shares)))), "{:.0%}".format),
        x_label="seconds",
        frame=WIDE_FRAME,
    )


def _mean(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of some frames; of the shares, of those that have a mask."""
    masks = part[~np.isnan(part).any(axis=1)]
    unknown = np.full(part.shape[1] - 1, np.nan)
    shares = masks[:, 1:].mean(axis=0) if len(masks) else unknown
    return np.append(part[:, 0].mean(), shares)
