"""Bisection: how far each layer of a candidate is from the reference, and the file that says so.

bisect ─▶ Bisection (Layer, …) ─▶ bisect_document ─▶ JSON ─▶ BisectFile ─▶ the report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn_deploy.results.environment import Environment, result_header
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Positive, Record, read_fields

if TYPE_CHECKING:
    from typing_extensions import Self

BISECT_SCHEMA = 2


@dataclass(frozen=True)
class Layer(Record):
    """How far a layer's output is from the reference's, over all pictures.

    Attributes:
        name: of the node, after the module that it comes from.
        operator: of the node, e.g. ``Conv``.
        tensor: name of the output in the reference.
        shape: of the output on the first picture.
        scale: RMS of the reference's output.
        max_error: largest |Δ|; None where the candidate is not finite.
        rms_error: RMS of Δ; None where the candidate is not finite.
        relative_error: ``rms_error`` over ``scale``; None where that is not finite.
        finite: whether the candidate's output is.
        beyond: whether ``relative_error`` exceeds the tolerance or the output is not finite.
    """

    name: str
    operator: str
    tensor: str
    shape: tuple[int, ...]
    scale: float | None
    max_error: float | None
    rms_error: float | None
    relative_error: float | None
    finite: bool
    beyond: bool


@dataclass(frozen=True)
class BisectedModel(Record):
    """One of the two ONNX files.

    Attributes:
        file: its path.
        digest: of the file.
        precision: of the network's arithmetic.
    """

    file: str
    digest: str
    precision: str


@dataclass(frozen=True)
class Bisection(Record):
    """Two ONNX files of one checkpoint, layer by layer.

    Attributes:
        reference: the FP32 file.
        candidate: the file in question.
        source: where the pictures come from.
        count: how many there were.
        tolerance: relative RMS error that a layer's output may have.
        layers: in the order of computing, at least one.
    """

    reference: BisectedModel
    candidate: BisectedModel
    source: str
    count: int
    tolerance: Positive
    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer | None:
        """The first layer beyond its tolerance, None where there is none."""
        return next((layer for layer in self.layers if layer.beyond), None)

    def to_json(self) -> dict[str, Any]:
        """Return the bisection as JSON values."""
        values = super().to_json()
        images = {"source": values.pop("source"), "count": values.pop("count")}
        first = None if self.first is None else self.first.name
        return {**values, "images": images, "first": first}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave."""
        images = fields.child("images")
        if not fields.items("layers"):
            raise fields.wrong("layers", "a list of at least one layer")
        source, count = images.text("source"), images.non_negative_int("count")
        return cls(**read_fields(cls, fields, source=source, count=count))


@dataclass(frozen=True)
class BisectFile:
    """A result file of `parity --bisect`.

    Attributes:
        environment: where it was made.
        arguments: of the command line, as they were typed; None where no command bisected.
        options: the same of its options.
        bisection: what was found.
    """

    environment: Environment
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None
    bisection: Bisection

    @classmethod
    def from_fields(cls, fields: Fields, environment: Environment) -> BisectFile:
        """Read back what :func:`bisect_document` gave."""
        bisection = Bisection.from_fields(fields)
        return cls(**read_fields(cls, fields, environment=environment, bisection=bisection))


def bisect_document(
    bisection: Bisection, typed: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Any]:
    """Return a result file's content: a bisection, what made it, and when.

    Args:
        bisection: what was found.
        typed: ``arguments`` and ``options`` of the command line, as they were typed; None where no
            command bisected.
    """
    return {
        **result_header("bisect", BISECT_SCHEMA),
        **(typed or {"arguments": None, "options": None}),
        **bisection.to_json(),
    }
