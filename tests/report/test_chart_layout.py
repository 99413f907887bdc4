"""Charts as data: where ticks and curves stand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fcn_deploy.report.chart_layout import (
    LABELLED_FRAME,
    SMALL_FRAME,
    WIDE_FRAME,
    Axis,
    Bar,
    Chart,
    Frame,
    Rule,
    Series,
    bar_chart,
    line_chart,
)
from fcn_deploy.report.ticks import log_ticks, round_ticks, whole_ticks

WIDE = Frame(width=220, height=120, left=10, right=210, top=10, bottom=110)


def chart_of(*series: Series, x_ticks: tuple[float, ...] = (0, 10)) -> Chart:
    x, y = Axis(x_ticks, "{:.0f}".format), Axis((0, 0.5, 1), "{:.0%}".format)
    return line_chart("Share", "what it shows", series, x, y, x_label="ms", frame=WIDE)


def test_ticks_and_points_stand_at_their_values() -> None:
    chart = chart_of(Series("ours", "val", ((0, 0.0), (5, 0.5), (10, 1.0))))
    assert chart.x_ticks == ((10, "0"), (210, "10"))
    assert chart.y_ticks == ((110, "0%"), (60, "50%"), (10, "100%"))
    (curve,) = chart.curves
    assert (curve.name, curve.style) == ("ours", "val")
    assert curve.segments == (((10, 110), (110, 60), (210, 10)),)
    assert (chart.title, chart.description, chart.x_label) == ("Share", "what it shows", "ms")
    assert chart.frame == WIDE


def test_curves_may_have_x_values_of_their_own() -> None:
    early, late = chart_of(
        Series("early", "train", ((0, 0.0), (2.5, 1.0))),
        Series("late", "val", ((5, 0.0), (10, 1.0))),
    ).curves
    assert early.segments == (((10, 110), (60, 10)),)
    assert late.segments == (((110, 110), (210, 10)),)


def test_a_curve_breaks_where_a_figure_is_missing() -> None:
    values = [0.1, None, 0.2, 0.3, None, *[0.5] * 10]
    (curve,) = chart_of(Series("ours", "val", tuple(enumerate(values))), x_ticks=(0, 14)).curves
    assert [len(segment) for segment in curve.segments] == [2, 10]
    assert len(curve.dots) == 1  # the first, alone before the gap

    (few,) = chart_of(Series("ours", "val", tuple(enumerate(values[:5])))).curves
    assert [len(segment) for segment in few.segments] == [2]
    assert len(few.dots) == 3


def test_figures_beyond_the_last_tick_stretch_the_axis() -> None:
    chart = chart_of(Series("ours", "val", ((-10, -1.0), (30, 3.0))))
    (curve,) = chart.curves
    assert curve.segments == (((10, 110), (210, 10)),)
    assert [x for x, _ in chart.x_ticks] == [60, 110]
    assert [y for y, _ in chart.y_ticks] == [85, 72.5, 60]


def test_a_single_value_stands_in_the_middle_and_no_figures_leave_the_axes() -> None:
    (curve,) = chart_of(Series("ours", "val", ((3, 0.5),)), x_ticks=(3,)).curves
    assert curve.segments == ()
    assert curve.dots == ((110, 60),)
    (empty,) = chart_of(Series("ours", "val", ((3, None),))).curves
    assert (empty.segments, empty.dots) == ((), ())


def test_the_plot_area_lies_within_the_chart() -> None:
    for frame in (SMALL_FRAME, LABELLED_FRAME, WIDE_FRAME):
        assert 0 < frame.left < frame.right <= frame.width
        assert 0 < frame.top < frame.bottom <= frame.height


def test_equal_factors_are_equally_far_apart_on_a_logarithmic_axis() -> None:
    chart = line_chart(
        "Error", "what it shows",
        [Series("ours", "val", ((1, 0.01), (2, 0.0), (4, 0.1), (16, 1.0)), frozenset({3}))],
        Axis((1, 4, 16), str, logarithmic=True), Axis((0.01, 0.1, 1), str, logarithmic=True),
        x_label="batch", frame=WIDE,
    )  # fmt: skip
    assert [x for x, _ in chart.x_ticks] == [10, 110, 210]
    assert [y for y, _ in chart.y_ticks] == [110, 60, 10]
    (curve,) = chart.curves
    # 0 has no place on such an axis: the curve breaks, and what stands alone is marked.
    assert curve.segments == (((110, 60), (210, 10)),)
    assert set(curve.dots) == {(210, 10), (10, 110)}


def test_rules_stand_at_their_values_with_their_words_inside() -> None:
    chart = line_chart(
        "Error", "what it shows", [Series("ours", "val", ((0, 0.0), (10, 1.0)))],
        Axis((0, 10), str), Axis((0, 1), str), x_label="layer", frame=WIDE,
        rules=[Rule(0.5, False, "limit", "t"), Rule(9, True, "here", "f"), Rule(1, True, "", "f")],
    )  # fmt: skip
    assert [rule.position for rule in chart.rules] == [60, 190, 30]
    assert [rule.anchor for rule in chart.rules] == ["end", "end", "start"]


def test_names_at_the_ends_of_curves_stand_apart() -> None:
    series = [Series(str(i), "val", ((0, 0.0), (10, height))) for i, height in enumerate((1, 0.99))]
    labels = [curve.label_at for curve in chart_of(*series).curves]
    assert all(label is not None for label in labels)
    heights = sorted(label[1] for label in labels if label is not None)
    assert heights[1] - heights[0] >= 13
    low = [Series(str(i), "val", ((0, 0.0), (10, height))) for i, height in enumerate((0, 0.01))]
    heights = [label[1] for c in chart_of(*low).curves if (label := c.label_at) is not None]
    assert max(heights) <= WIDE.bottom
    (empty,) = chart_of(Series("ours", "val", ((3, None),))).curves
    assert empty.label_at is None


def test_bars_begin_at_0_and_their_parts_follow_one_another() -> None:
    chart = bar_chart(
        "Time", "what it shows",
        [
            Bar("one", "30 ms", (("a", 10, "first"), ("b", 20, "second"))),
            Bar("two", "40 ms", (("a", 40, "all"),), whisker=(38, 50)),
        ],
        Axis((0, 25, 50), "{:g}".format), x_label="ms",
    )  # fmt: skip
    one, two = chart.bars
    left, middle, right = (x for x, _ in chart.x_ticks)
    assert one.parts[0].x == left
    assert one.parts[1].x == pytest.approx(one.parts[0].x + one.parts[0].width)
    assert one.whisker is None
    assert two.parts[0].width == pytest.approx(0.8 * (right - left))
    assert two.whisker is not None
    assert two.whisker[1] == right
    assert middle == pytest.approx((left + right) / 2)
    assert 0 < one.text_y < one.y < two.text_y < two.y < chart.bottom < chart.height


@pytest.mark.parametrize(
    ("made", "ticks"),
    [
        (log_ticks(1, 10), [1, 2, 5, 10]),
        (log_ticks(3, 70), [2, 5, 10, 20, 50, 100]),
        (log_ticks(7, 7), [5, 10]),
        (log_ticks(1e-7, 1e-1), [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (log_ticks(3e-12, 2), [1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2, 1, 100]),
        (round_ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (round_ticks(0, 2.3), [0, 0.5, 1, 1.5, 2, 2.5]),
        (round_ticks(-0.4, 1.7), [-0.5, 0, 0.5, 1, 1.5, 2]),
        (round_ticks(0, 37), [0, 10, 20, 30, 40]),
        (whole_ticks(1, 1), [1]),
        (whole_ticks(1, 3), [1, 2, 3]),
        (whole_ticks(1, 30), [1, 5, 10, 15, 20, 25, 30]),
        (whole_ticks(4, 30), [4, 10, 15, 20, 25, 30]),
        (whole_ticks(0, 6000), [0, 1000, 2000, 3000, 4000, 5000, 6000]),
    ],
)
def test_ticks(made: Sequence[float], ticks: list[float]) -> None:
    assert list(made) == pytest.approx(ticks)
