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
#: In pixels: height and width that a letter of a name takes, at most.
_LINE, _LETTER = 14, 6.6


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
    yield _text(right - 215, top - 14, "● of this project", "end", OURS)
    yield _text(right, top - 14, "◆ of other libraries, trained alike", "end", OTHERS)


def _front(chart: Chart) -> Iterator[str]:
    for segment in chart.curves[0].segments:
        points = " ".join(f"{x},{y}" for x, y in segment)
        yield f'<polyline points="{points}" fill="none" stroke="{INK}" stroke-dasharray="4 4"/>'


def _networks(chart: Chart, networks: Sequence[Network]) -> Iterator[str]:
    places = [curve.dots[-1] for curve in chart.curves[1:]]
    labels = _labels(places, [network.name for network in networks])
    for curve, network, (x, y), (height, anchor) in zip(
        chart.curves[1:], networks, places, labels, strict=True
    ):
        colour = OURS if network.is_ours else OTHERS
        low, high = curve.dots[0][1], curve.dots[1][1]
        yield f'<path d="M{x} {low}V{high}" stroke="{colour}" stroke-opacity="0.5"/>'
        if network.is_ours:
            yield f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>'
        else:
            yield f'<path d="M{x} {y - 6}l6 6l-6 6l-6 -6z" fill="{colour}"/>'
        yield _text(
            x + (10 if anchor == "start" else -10), height + 4, network.name, anchor, colour
        )


def _labels(places: Sequence[tuple[float, float]], names: Sequence[str]) -> list[tuple[float, str]]:
    """Return each name's height and anchor, where it touches no mark and no name before it."""
    taken = [(x - 8, x + 8, y) for x, y in places]
    found = []
    for (x, y), name in zip(places, names, strict=True):
        width = _LETTER * len(name)
        places_for_it = (
            (height, anchor, begin)
            for shift in range(0, FRAME.height, 4)
            for height in (y - shift, y + shift)
            for anchor, begin in (("start", x + 10), ("end", x - 10 - width))
            if FRAME.left < begin < FRAME.right - width
            if FRAME.top < height < FRAME.bottom
            if all(
                begin > right or begin + width < left or abs(height - middle) >= _LINE
                for left, right, middle in taken
            )
        )
        height, anchor, begin = next(places_for_it, (y, "start", x + 10))
        taken.append((begin, begin + width, height))
        found.append((round(height, 1), anchor))
    return found


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
