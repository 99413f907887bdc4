"""The page of the compared networks: as the recorded file says, whatever that is."""

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from networks.compared import COMPARED
from networks.figures import MARK, Figures, read_figures
from networks.page import PAGE, PLOT, RECORDED, page
from networks.plot import svg

from fcn_deploy.core.errors import ArtifactError


def test_page_and_plot_are_those_of_the_recorded_file() -> None:
    figures = read_figures(RECORDED)
    assert PAGE.read_text(encoding="utf-8") == page(figures)
    assert PLOT.read_text(encoding="utf-8") == svg(figures)
    assert PLOT.stat().st_size < 40_000


def entry(name: str, ms: float, mean_iou: float, family: str = "fcn-deploy") -> dict[str, Any]:
    """A network whose repeats differ by a hundredth."""
    interval = {"low": mean_iou - 0.02, "high": mean_iou + 0.02}
    return {
        "name": name,
        "family": family,
        "epochs": 9,
        "fitting_epochs": 10,
        "parameters": 1_500_000,
        "gmacs": 1.0,
        "mean_iou": {"value": mean_iou, "interval": interval},
        "pixel_accuracy": {"value": 0.8, "interval": interval},
        "iou": {"Sky": 0.9, "Pole": mean_iou - 0.4},
        "timed_untrained": False,
        "repeats_ms": [ms * (1 + 0.01 * (k % 3)) for k in range(9)],
    }


@pytest.fixture
def figures(tmp_path: Path) -> Any:
    """Return a reader of a recorded file with other networks."""

    def read(*entries: dict[str, Any], schema: int = 1) -> Figures:
        document = json.loads(RECORDED.read_text(encoding="utf-8"))
        file = tmp_path / "networks.json"
        file.write_text(json.dumps({**document, "schema": schema, "networks": entries}))
        return read_figures(file)

    return read


def test_networks_that_are_slower_and_worse_are_not_on_the_front(figures: Any) -> None:
    found = figures(
        entry("slow", 50, 0.6), entry("worse", 40, 0.4), entry("fast", 10, 0.3),
        entry("middle", 20, 0.5),
    )  # fmt: skip
    assert [network.name for network in found.networks] == ["fast", "middle", "worse", "slow"]
    assert [network.name for network in found.front] == ["fast", "middle", "slow"]
    text = page(found)
    assert "The others (`worse`)" in text
    assert "**`slow`** has the best masks" in text
    assert f"`{MARK}` is not measured yet" in text


@pytest.mark.parametrize(
    ("ms", "mean_iou", "verdict"),
    [
        (20.0, 0.55, "It is reached"),
        (20.0, 0.50, "It is reached"),
        (19.0, 0.45, "behind most, in points of IoU, on Pole (5)"),
        (30.0, 0.55, "What stops it is the time"),
    ],
)
def test_the_mark(figures: Any, ms: float, mean_iou: float, verdict: str) -> None:
    text = page(figures(entry(MARK, 20, 0.5, "ultralytics"), entry("ours", ms, mean_iou)))
    assert verdict in text
    assert ("It is reached" in text) == (verdict == "It is reached")


def test_networks_without_a_result_are_named(figures: Any) -> None:
    first, *others = COMPARED
    found = figures(entry(first.name, 20, 0.5, first.family))
    assert found.missing == tuple(row.name for row in others)
    assert f"Not measured yet: `{others[0].name}`" in page(found)


def test_a_plot_names_each_network_once_and_apart(figures: Any) -> None:
    names = [letter * 30 for letter in ("a", "b", "<", "d")]
    shown = zip(names, (20, 20.1, 20.3, 21), (0.5, 0.501, 0.5, 0.5), strict=True)
    root = ElementTree.fromstring(svg(figures(*(entry(*about) for about in shown))))
    boxes = []
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        if text.text in names:
            x, width = float(text.attrib["x"]), 6 * len(text.text)
            left = x if text.attrib["text-anchor"] == "start" else x - width
            boxes.append((left, left + width, float(text.attrib["y"])))
    assert len(boxes) == 4
    for one, other in itertools.combinations(boxes, 2):
        beside = one[1] < other[0] or other[1] < one[0]
        assert beside or abs(one[2] - other[2]) >= 14


def test_another_schema_is_refused(figures: Any) -> None:
    with pytest.raises(ArtifactError, match="does not hold networks"):
        figures(entry("a", 20, 0.5), schema=99)
