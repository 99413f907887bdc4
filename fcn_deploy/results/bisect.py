"""Bisection: how far each layer of a candidate is from the reference, and the file that says so.

bisect ─▶ Bisection (Layer, …) ─▶ bisect_document ─▶ JSON ─▶ BisectFile ─▶ the report
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fcn_deploy.results.environment import Environment, result_header
from fcn_deploy.results.fields import Fields

BISECT_SCHEMA = 2


@dataclass(frozen=True)
class Layer:
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

    def to_json(self) -> dict[str, Any]:
        """Return the layer as JSON values."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_fields(cls, fields: Fields) -> Layer:
        """Read back what :meth:`to_json` gave."""
        return cls(
            name=fields.text("name"),
            operator=fields.text("operator"),
            tensor=fields.text("tensor"),
            shape=fields.non_negative_ints("shape"),
            scale=fields.number_or_none("scale"),
            max_error=fields.number_or_none("max_error"),
            rms_error=fields.number_or_none("rms_error"),
            relative_error=fields.number_or_none("relative_error"),
            finite=fields.flag("finite"),
            beyond=fields.flag("beyond"),
        )


@dataclass(frozen=True)
class BisectedModel:
    """One of the two ONNX files.

    Attributes:
        file: its path.
        digest: of the file.
        precision: of the network's arithmetic.
    """

    file: str
    digest: str
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Return the file as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> BisectedModel:
        """Read back what :meth:`to_json` gave."""
        return cls(fields.text("file"), fields.text("digest"), fields.text("precision"))


@dataclass(frozen=True)
class Bisection:
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
    tolerance: float
    layers: tuple[Layer, ...]

    @property
    def first(self) -> Layer | None:
        """The first layer beyond its tolerance, None where there is none."""
        return next((layer for layer in self.layers if layer.beyond), None)

    def to_json(self) -> dict[str, Any]:
        """Return the bisection as JSON values."""
        return {
            "reference": self.reference.to_json(),
            "candidate": self.candidate.to_json(),
            "images": {"source": self.source, "count": self.count},
            "tolerance": self.tolerance,
            "layers": [layer.to_json() for layer in self.layers],
            "first": None if self.first is None else self.first.name,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Bisection:
        """Read back what :meth:`to_json` gave."""
        images = fields.child("images")
        layers = tuple(Layer.from_fields(entry) for entry in fields.children("layers"))
        if not layers:
            raise fields.wrong("layers", "a list of at least one layer")
        return cls(
            reference=BisectedModel.from_fields(fields.child("reference")),
            candidate=BisectedModel.from_fields(fields.child("candidate")),
            source=images.text("source"),
            count=images.non_negative_int("count"),
            tolerance=fields.positive("tolerance"),
            layers=layers,
        )


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
        return cls(
            environment=environment,
            arguments=fields.texts_or_none("arguments"),
            options=fields.texts_or_none("options"),
            bisection=Bisection.from_fields(fields),
        )


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
