"""What the page says of the recorded networks, as values: medians, ratios, the front, the mark."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.core.files import read_json
from fcn_deploy.results.ratio import Ratio, paired_ratio
from networks.compared import COMPARED
from networks.schema import NETWORKS, NETWORKS_SCHEMA

#: Whose latency and accuracy a network of ours is to reach.
MARK = "yolo26n-sem"
OURS = "fcn-deploy"


@dataclass(frozen=True)
class Network:
    """A network that was measured.

    Attributes:
        name: of ``COMPARED``.
        family: ``fcn-deploy`` or the library that it comes from.
        epochs: that it was trained.
        fitting_epochs: that would have fitted into the time.
        parameters: how many.
        gmacs: multiplications and additions of a picture of 320×480, in 10⁹.
        mean_iou: on the validation pictures.
        interval: of the mean IoU, 95 %.
        pixel_accuracy: likewise.
        iou: class → IoU.
        repeats_ms: time of a picture, of each repeat.
    """

    name: str
    family: str
    epochs: int
    fitting_epochs: int
    parameters: int
    gmacs: float
    mean_iou: float
    interval: tuple[float, float]
    pixel_accuracy: float
    iou: Mapping[str, float]
    repeats_ms: tuple[float, ...]

    @property
    def ms(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.repeats_ms)

    @property
    def is_ours(self) -> bool:
        """Whether it is one of the project's own networks."""
        return self.family == OURS

    def slower_than(self, other: Network) -> Ratio:
        """Return how many times its time is the other's, by repeats of one run."""
        pairs = zip(self.repeats_ms, other.repeats_ms, strict=True)
        return paired_ratio([mine / theirs for mine, theirs in pairs])


@dataclass(frozen=True)
class Figures:
    """The content of the recorded file.

    Attributes:
        document: as it was read.
        networks: the fastest first.
    """

    document: Mapping[str, Any]
    networks: tuple[Network, ...]

    @property
    def mark(self) -> Network | None:
        """The network to reach; None: it is not measured."""
        return next((network for network in self.networks if network.name == MARK), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Networks that were to be compared and are not measured yet."""
        measured = {network.name for network in self.networks}
        return tuple(row.name for row in COMPARED if row.name not in measured)

    @property
    def front(self) -> tuple[Network, ...]:
        """Networks than which none is both faster and better, the fastest first."""
        found: list[Network] = []
        for network in self.networks:
            if not found or network.mean_iou > found[-1].mean_iou:
                found.append(network)
        return tuple(found)

    def fast_enough(self) -> tuple[Network, ...]:
        """Return those of ours that are not slower than the mark, the most accurate first."""
        mark = self.mark
        if mark is None:
            return ()
        # Of a time, "faster" says that the ratio is above 1 beyond the noise.
        fast = [n for n in self.networks if n.is_ours and n.slower_than(mark).verdict != "faster"]
        return tuple(sorted(fast, key=lambda network: -network.mean_iou))


def read_figures(file: Path) -> Figures:
    """Read a file of ``networks.record``.

    Raises:
        ArtifactError: it is none, or of another schema.
    """
    document = read_json(file, repair="make it by python -m networks.record")
    if (document.get("kind"), document.get("schema")) != (NETWORKS, NETWORKS_SCHEMA):
        raise ArtifactError(f"{file} does not hold networks", "make it by networks.record")
    networks = [_network(entry) for entry in document["networks"]]
    return Figures(document, tuple(sorted(networks, key=lambda network: network.ms)))


def _network(entry: Mapping[str, Any]) -> Network:
    interval = entry["mean_iou"]["interval"]
    return Network(
        name=entry["name"],
        family=entry["family"],
        epochs=entry["epochs"],
        fitting_epochs=entry["fitting_epochs"],
        parameters=entry["parameters"],
        gmacs=entry["gmacs"],
        mean_iou=entry["mean_iou"]["value"],
        interval=(interval["low"], interval["high"]),
        pixel_accuracy=entry["pixel_accuracy"]["value"],
        iou=entry["iou"],
        repeats_ms=tuple(entry["repeats_ms"]),
    )


def largest_losses(network: Network, other: Network, count: int) -> Sequence[tuple[str, float]]:
    """Return the classes in which a network is furthest behind another, with the difference."""
    behind = [(name, share - network.iou[name]) for name, share in other.iou.items()]
    behind = [(name, gap) for name, gap in behind if gap > 0]
    return sorted(behind, key=lambda pair: -pair[1])[:count]
