"""Figures → charts laid out as data, in the coordinates in which the page's template draws them.

    Series: points (x, y) ─┐
    Axis: ticks, their text ┴─ line_chart ──▶ Chart: ticks, curves, rules, placed in a Frame
    Bar: parts, whiskers ───── bar_chart ───▶ BarChart: one strip per bar, its words above it

    top    ┬ ─ ─ ─ ─ ─ ─ ─ ┐
           │    curves     │     one unit is one px at full width; y grows downwards, as in SVG
    bottom ┼─┬───┬───┬───┬─┘
         left              right

This module knows places, not meanings: what is charted, and how its figures read, is the caller's.
Colours and dashes are the page's; a curve carries the key of its style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Point = tuple[float, float]
#: Up to so many points each is marked: a line alone would not show where the figures are.
_FEW_POINTS = 8
#: Names beside the curves' ends stand at least so far apart.
_LABEL_HEIGHT = 13


@dataclass(frozen=True)
class Frame:
    """Size of a chart and the edges of its plot area; ticks and labels stand outside of these."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


#: Three of these stand side by side on a wide page.
SMALL_FRAME = Frame(width=330, height=218, left=42, right=320, top=12, bottom=180)
#: The same with room for names beside the curves' ends.
LABELLED_FRAME = Frame(width=330, height=218, left=42, right=238, top=12, bottom=180)
#: As wide as two of them.
WIDE_FRAME = Frame(width=680, height=250, left=52, right=668, top=14, bottom=212)


@dataclass(frozen=True)
class Axis:
    """What an axis shows at least; figures beyond its last tick stretch it.

    Attributes:
        ticks: values to name, ascending, at least one.
        text: how such a value reads.
        logarithmic: whether equal factors, instead of equal differences, are equally far apart;
            then every tick is above 0, and points that are not are left out.
    """

    ticks: tuple[float, ...]
    text: Callable[[float], str]
    logarithmic: bool = False


@dataclass(frozen=True)
class Series:
    """Figures of one curve.

    Attributes:
        name: for a legend.
        style: key of the curve's colour and dashes on the page.
        points: (x, y) in order; y is None where there is no figure, and the curve breaks.
        marked: which points to mark, by number; by default all of a few.
    """

    name: str
    style: str
    points: tuple[tuple[float, float | None], ...]
    marked: frozenset[int] | None = None


@dataclass(frozen=True)
class Rule:
    """A straight line across the plot, with a word on it.

    Attributes:
        at: the value on its axis.
        vertical: whether it stands on the x axis; else it starts from the y axis.
        label: what it says.
        style: key of its colour and dashes on the page.
    """

    at: float
    vertical: bool
    label: str
    style: str


@dataclass(frozen=True)
class PlacedRule:
    """A rule in the chart's coordinates: a vertical one's x, another one's y."""

    position: float
    vertical: bool
    label: str
    style: str
    anchor: str


@dataclass(frozen=True)
class Scale:
    """Values ``low`` to ``high`` stand at positions ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; the middle where the scale spans nothing."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Curve:
    """One line of a chart: polylines in the chart's coordinates, broken where a value is missing.

    Attributes:
        name: for a legend.
        style: key of its colour and dashes on the page.
        segments: points per unbroken piece.
        dots: points to mark, where a line alone would show nothing or little.
        label_at: where its name may stand beside its end, clear of the others' names; None where
            it has no point.
    """

    name: str
    style: str
    segments: tuple[tuple[Point, ...], ...]
    dots: tuple[Point, ...]
    label_at: Point | None


@dataclass(frozen=True)
class Chart:
    """A line chart, laid out; the template only draws it.

    Attributes:
        title: above it.
        description: what it shows, for who cannot see it.
        x_label: what the x axis counts.
        x_ticks: position and label.
        y_ticks: position and label.
        curves: the lines.
        rules: straight lines across the plot.
        frame: which coordinates all of these are in.
    """

    title: str
    description: str
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    curves: tuple[Curve, ...]
    rules: tuple[PlacedRule, ...]
    frame: Frame


def line_chart(
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    x_label: str,
    rules: Sequence[Rule] = (),
    frame: Frame = SMALL_FRAME,
) -> Chart:
    """Lay out curves over two axes.

    Args:
        title: above the chart.
        description: what it shows, for who cannot see it.
        series: the curves; the later ones lie above the earlier.
        x: the horizontal axis.
        y: the vertical axis.
        x_label: what the x axis counts.
        rules: straight lines across the plot.
        frame: size and plot area.
    """
    points = [point for entry in series for point in entry.points]
    across = [value for value, _ in points] + [rule.at for rule in rules if rule.vertical]
    up = [value for _, value in points if value is not None]
    up += [rule.at for rule in rules if not rule.vertical]
    place_x = _scale(x, across, frame.left, frame.right)
    place_y = _scale(y, up, frame.bottom, frame.top)
    middle = (frame.left + frame.right) / 2
    return Chart(
        title=title,
        description=description,
        x_label=x_label,
        x_ticks=tuple((place_x(tick), x.text(tick)) for tick in x.ticks),
        y_ticks=tuple((place_y(tick), y.text(tick)) for tick in y.ticks),
        curves=_apart([_curve(entry, place_x, place_y) for entry in series], frame),
        rules=tuple(
            PlacedRule(
                position=(place_x if rule.vertical else place_y)(rule.at),
                vertical=rule.vertical,
                label=rule.label,
                style=rule.style,
                # A word beside a vertical rule goes to the side with more room.
                anchor="start" if rule.vertical and place_x(rule.at) < middle else "end",
            )
            for rule in rules
        ),
        frame=frame,
    )


@dataclass(frozen=True)
class Bar:
    """One bar: a single part, or several that follow one another.

    Attributes:
        name: above it, at the left.
        value: above it, at the right.
        parts: (key of the colour on the page, length, what it is) in order.
        whisker: (lowest, highest), or None.
    """

    name: str
    value: str
    parts: tuple[tuple[str, float, str], ...]
    whisker: tuple[float, float] | None = None


@dataclass(frozen=True)
class PlacedPart:
    """A piece of a bar in the chart's coordinates."""

    style: str
    x: float
    width: float
    label: str


@dataclass(frozen=True)
class PlacedBar:
    """A bar in the chart's coordinates.

    Attributes:
        text_y: baseline of its words.
        y: its upper edge.
        whisker: (left, right), or None.
    """

    name: str
    value: str
    text_y: float
    y: float
    parts: tuple[PlacedPart, ...]
    whisker: tuple[float, float] | None


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars from a common left edge, laid out.

    Attributes:
        thickness: of a bar.
        x_ticks: position and label.
    """

    title: str
    description: str
    width: int
    height: float
    top: float
    bottom: float
    thickness: int
    x_label: str
    x_ticks: tuple[tuple[float, str], ...]
    bars: tuple[PlacedBar, ...]


_BAR_CHART_WIDTH, _BAR_STEP, _BAR_THICKNESS = 330, 37, 13
_BAR_EDGES = 4, 322


def bar_chart(
    title: str, description: str, bars: Sequence[Bar], x: Axis, *, x_label: str
) -> BarChart:
    """Lay out bars below one another; their lengths start at 0.

    Args:
        title: above the chart.
        description: what it shows, for who cannot see it.
        bars: from top to bottom.
        x: the axis; its first tick is 0.
        x_label: what the x axis counts.
    """
    ends = [sum(length for _, length, _ in bar.parts) for bar in bars]
    ends += [bar.whisker[1] for bar in bars if bar.whisker is not None]
    place = _scale(x, [0.0, *ends], *_BAR_EDGES)
    bottom = _BAR_STEP * len(bars) + 4
    return BarChart(
        title=title,
        description=description,
        width=_BAR_CHART_WIDTH,
        height=bottom + 32,
        top=0,
        bottom=bottom,
        thickness=_BAR_THICKNESS,
        x_label=x_label,
        x_ticks=tuple((place(tick), x.text(tick)) for tick in x.ticks),
        bars=tuple(_bar(bar, index, place) for index, bar in enumerate(bars)),
    )


def _bar(bar: Bar, index: int, place: Scale) -> PlacedBar:
    parts, start = [], 0.0
    for style, length, label in bar.parts:
        left, right = place(start), place(start + length)
        parts.append(PlacedPart(style, left, round(max(0.0, right - left), 1), label))
        start += length
    top = _BAR_STEP * index
    return PlacedBar(
        bar.name,
        bar.value,
        text_y=top + 14,
        y=top + 19,
        parts=tuple(parts),
        whisker=None if bar.whisker is None else (place(bar.whisker[0]), place(bar.whisker[1])),
    )


def _scale(axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
    shown = [*axis.ticks, *(v for v in values if v > 0 or not axis.logarithmic)]
    return Scale(min(shown), max(shown), start, end, axis.logarithmic)


def _curve(series: Series, place_x: Scale, place_y: Scale) -> Curve:
    segments: list[list[Point]] = [[]]
    marked: list[Point] = []
    few = len(series.points) <= _FEW_POINTS
    for index, (x, y) in enumerate(series.points):
        if y is None or (place_x.logarithmic and x <= 0) or (place_y.logarithmic and y <= 0):
            segments.append([])
            continue
        point = place_x(x), place_y(y)
        segments[-1].append(point)
        if few if series.marked is None else index in series.marked:
            marked.append(point)
    # A point alone between two gaps makes no line.
    marked += [point for s in segments if len(s) == 1 for point in s if point not in marked]
    drawn = [point for segment in segments for point in segment]
    return Curve(
        name=series.name,
        style=series.style,
        segments=tuple(tuple(segment) for segment in segments if len(segment) > 1),
        dots=tuple(marked),
        label_at=drawn[-1] if drawn else None,
    )


def _apart(curves: Sequence[Curve], frame: Frame) -> tuple[Curve, ...]:
    """Move the names at the curves' ends apart, up and down, within the frame."""
    places = {i: curve.label_at for i, curve in enumerate(curves) if curve.label_at is not None}
    order = sorted(places, key=lambda index: places[index][1])
    heights: list[float] = []
    for index in order:
        lowest_before = heights[-1] + _LABEL_HEIGHT if heights else frame.top
        heights.append(max(places[index][1], lowest_before))
    # What was pushed below the frame is pushed back, and the ones above it with it.
    limit = float(frame.bottom)
    for position in reversed(range(len(heights))):
        heights[position] = min(heights[position], limit)
        limit = heights[position] - _LABEL_HEIGHT
    moved = {i: (places[i][0], round(y, 1)) for i, y in zip(order, heights, strict=True)}
    return tuple(replace(curve, label_at=moved.get(i)) for i, curve in enumerate(curves))
