"""CUDA graphs of batch shapes: which are recorded, which are kept, which are done without."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.machine.cuda import Graph, Stream
from fcn_deploy.tensorrt.callbacks import LOGGER

#: How many (slot, shape) pairs keep a CUDA graph, unless more are asked for; the least recently
#: used one makes room.
MAX_GRAPHS = 8
#: How many (slot, shape) pairs are remembered as seen, and as refused by a capture, for each graph.
_REMEMBERED_PER_GRAPH = 4
#: A slot's number and the shape of its batch: a graph has the addresses of one slot built in.
GraphKey = tuple[int, BatchShape]


class ShapeGraphs:
    """The CUDA graphs of one compute stream, by slot and shape.

    Attributes:
        recorded: how many times a graph was made.
        refused: how many times none could be made.
    """

    def __init__(self, compute: Stream) -> None:
        self.recorded = self.refused = 0
        self._compute = compute
        self._max_graphs = MAX_GRAPHS
        self._kept: OrderedDict[GraphKey, tuple[Graph, Any]] = OrderedDict()
        self._seen: OrderedDict[GraphKey, None] = OrderedDict()
        self._refused: OrderedDict[GraphKey, None] = OrderedDict()

    def reserve(self, graphs: int) -> None:
        """Keep so many; never fewer than ``MAX_GRAPHS``."""
        self._max_graphs = max(MAX_GRAPHS, graphs)

    def find(self, key: GraphKey) -> Graph | None:
        """Return the graph that is kept, now the last to be dropped, or None."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def is_due(self, key: GraphKey) -> bool:
        """Say whether a batch should be recorded: it has come back, and was not refused before."""
        return key in self._seen and key not in self._refused

    def see(self, key: GraphKey) -> None:
        """Remember that a batch was enqueued plainly."""
        self._remember(self._seen, key)

    def record(self, key: GraphKey, context: Any, execute: Callable[[], None]) -> bool:
        """Record a context's work and keep the graph; False where that is refused.

        Args:
            key: what to keep it under; one that is refused is not due again.
            context: that the graph needs for as long as it is kept.
            execute: enqueues the work.
        """
        # What the plain enqueue before has begun must not be under way while its like is recorded:
        # TensorRT may still settle things that a capture forbids.  trtexec waits here as well.
        self._compute.synchronize()
        try:
            self._compute.begin_capture()
            try:
                execute()
            except FcnDeployError:
                self._compute.abandon_capture()
                raise
            graph = self._compute.end_capture()
        except FcnDeployError as error:
            self.refuse(key, str(error))
            return False
        self.recorded += 1
        self._kept[key] = (graph, context)
        while len(self._kept) > self._max_graphs:
            self._drop([next(iter(self._kept))])
        return True

    def refuse(self, key: GraphKey, reason: str) -> None:
        """Remember that a batch cannot be recorded: it is not tried again and again."""
        self.refused += 1
        shape = key[1]
        if not any(shape == refused for _, refused in self._refused):  # in another slot
            LOGGER.warning(
                "no CUDA graph of %s (N×H×W), it is enqueued plainly instead: %s",
                "x".join(map(str, shape)),
                reason,
            )
        self._remember(self._refused, key)

    def _remember(self, keys: OrderedDict[GraphKey, None], key: GraphKey) -> None:
        keys[key] = None
        keys.move_to_end(key)
        while len(keys) > _REMEMBERED_PER_GRAPH * self._max_graphs:
            keys.popitem(last=False)

    def drop_slot(self, slot: int) -> None:
        """Drop the graphs of a slot, whose addresses are about to change."""
        self._drop([key for key in self._kept if key[0] == slot])

    def close(self) -> None:
        """Drop all graphs; calling it twice is harmless."""
        self._drop(list(self._kept))

    def _drop(self, keys: list[GraphKey]) -> None:
        if keys:
            self._compute.synchronize()
        for key in keys:
            graph, _context = self._kept.pop(key)
            graph.close()
