"""The plot of the page: validation mIoU over milliseconds, as SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from fcn_deploy.report.chart_layout import Axis, Chart, Frame, Series, line_chart
from fcn_deploy.report.ticks import log_ticks, round_ticks
from networks.figures import Figures, Network

FRAME = Frame(width=760, height=440, left=64, right=736, top=34, bottom=384)
#: Colours that differ in lightness too, on white; the shape of a mark says the same.
OURS, OTHERS, INK, GRID = "#0b62a4", "#b3441b", "#222222", "#dddddd"
#: Names of networks stand at least so far apart where they would touch, in pixels.
_LINE, _NEAR = 15, 150


def svg(figures: Figures) -> str:
    """Return the plot: a mark and a 95 % interval for each network, and the front as a line."""
    chart = _chart(figures)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {FRAME.width} {FRAME.height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(chart.title)}</title>",
        f"<desc>{escape(chart.description)}</desc>",
        f'<rect width="{FRAME.width}" height="{FRAME.height}" fill="#ffffff"/>',
        *_axes(chart),
        *_front(chart),
        *_networks(chart, figures.networks),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _chart(figures: Figures) -> Chart:
    networks = figures.networks
    ends = [end for network in networks for end in network.interval]
    times = [network.ms for network in networks]
    front = Series("front", "front", tuple((n.ms, n.mean_iou) for n in figures.front))
    return line_chart(
        "Validation mIoU over latency on CamVid",
        "; ".join(f"{n.name}: {n.ms:.1f} ms, mIoU {n.mean_iou:.3f}" for n in networks),
        [
            front,
            *(
                Series(
                    network.name,
                    "ours" if network.is_ours else "others",
                    tuple((network.ms, y) for y in (*network.interval, network.mean_iou)),
                )
                for network in networks
            ),
        ],
        Axis(tuple(log_ticks(min(times), max(times))), "{:g}".format, logarithmic=True),
        Axis(tuple(round_ticks(min(ends), max(ends))), "{:.2f}".format),
        x_label="ms per picture of 320×480, ONNX Runtime FP32 on two cores, logarithmic",
        frame=FRAME,
    )


def _axes(chart: Chart) -> Iterator[str]:
    left, right, top, bottom = FRAME.left, FRAME.right, FRAME.top, FRAME.bottom
    for x, text in chart.x_ticks:
        yield f'<path d="M{x} {top}V{bottom}" stroke="{GRID}"/>'
        yield _text(x, bottom + 18, text, "middle")
    for y, text in chart.y_ticks:
        yield f'<path d="M{left} {y}H{right}" stroke="{GRID}"/>'
        yield _text(left - 8, y + 4, text, "end")
    yield _text((left + right) / 2, FRAME.height - 14, chart.x_label, "middle")
    yield _text(left - 48, top - 14, "validation mIoU, with its 95 % interval", "start")
    yield _text(right - 180, top - 14, "● of this project", "end", OURS)
    yield _text(right, top - 14, "◆ of other libraries, trained alike", "end", OTHERS)


def _front(chart: Chart) -> Iterator[str]:
    for segment in chart.curves[0].segments:
        points = " ".join(f"{x},{y}" for x, y in segment)
        yield f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-dasharray="4 4"/>'


def _networks(chart: Chart, networks: Sequence[Network]) -> Iterator[str]:
    places = [curve.dots[-1] for curve in chart.curves[1:]]
    heights = _label_heights(places)
    for curve, network, (x, y), height in zip(
        chart.curves[1:], networks, places, heights, strict=True
    ):
        colour = OURS if network.is_ours else OTHERS
        low, high = curve.dots[0][1], curve.dots[1][1]
        yield f'<path d="M{x} {low}V{high}" stroke="{colour}" stroke-opacity="0.5"/>'
        if network.is_ours:
            yield f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>'
        else:
            yield f'<path d="M{x} {y - 6}l6 6l-6 6l-6 -6z" fill="{colour}"/>'
        beside_right = x < FRAME.right - _NEAR
        anchor, dx = ("start", 10) if beside_right else ("end", -10)
        yield _text(x + dx, height + 4, network.name, anchor, colour)


def _label_heights(places: Sequence[tuple[float, float]]) -> list[float]:
    """Return the height of each name, moved down where it would touch one that stands already."""
    heights: dict[int, float] = {}
    for index in sorted(range(len(places)), key=lambda i: places[i][1]):
        x, height = places[index]
        for other in sorted(heights, key=lambda i: heights[i]):
            near = abs(places[other][0] - x) < _NEAR
            if near and abs(heights[other] - height) < _LINE:
                height = heights[other] + _LINE
        heights[index] = height
    return [round(heights[index], 1) for index in range(len(places))]


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
