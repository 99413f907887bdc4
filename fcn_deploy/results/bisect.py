"""Layer, Bisection."""

from __future__ import annotations

from dataclasses import dataclass

from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields, typed


@dataclass(frozen=True)
class Layer:
    """How far a layer's output is from the reference's; None where it is not finite.

    Attributes:
        scale: RMS of the reference's output.
        relative_error: RMS error over ``scale``.
        beyond: more than the tolerance, or not finite.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    scale: float | None
    max_error: float | None
    relative_error: float | None
    finite: bool
    beyond: bool


@dataclass(frozen=True)
class Bisection:
    """Two ONNX files, layer by layer, out of a bisect file.

    Attributes:
        tolerance: relative RMS error that a layer's output may have.
        layers: in the order of computing.
        arguments: of the command line, as they were typed; None where the file does not say.
        options: the same of its options.
    """

    environment: Environment
    reference_file: str
    reference_digest: str
    reference_precision: str
    candidate_file: str
    candidate_digest: str
    candidate_precision: str
    source: str
    count: int
    tolerance: float
    layers: tuple[Layer, ...]
    arguments: tuple[str, ...] | None
    options: tuple[str, ...] | None

    @property
    def first(self) -> Layer | None:
        """The first layer beyond its tolerance, None where there is none."""
        return next((layer for layer in self.layers if layer.beyond), None)


def bisection_from_fields(fields: Fields, environment: Environment) -> Bisection:
    """Read the JSON of a bisection back."""
    reference, candidate = fields.child("reference"), fields.child("candidate")
    images = fields.child("images")
    layers = tuple(layer_from_fields(entry) for entry in fields.children("layers"))
    if not layers:
        raise fields.wrong("layers", "a list of at least one layer")
    return Bisection(
        environment=environment,
        reference_file=reference.text("file"),
        reference_digest=reference.text("digest"),
        reference_precision=reference.text("precision"),
        candidate_file=candidate.text("file"),
        candidate_digest=candidate.text("digest"),
        candidate_precision=candidate.text("precision"),
        source=images.text("source"),
        count=images.whole("count"),
        tolerance=fields.positive("tolerance"),
        layers=layers,
        arguments=typed(fields, "arguments"),
        options=typed(fields, "options"),
    )


def layer_from_fields(fields: Fields) -> Layer:
    """Read the JSON of a layer back."""
    return Layer(
        name=fields.text("name"),
        operator=fields.text("operator"),
        shape=fields.wholes("shape"),
        scale=fields.number_or_none("scale"),
        max_error=fields.number_or_none("max_error"),
        relative_error=fields.number_or_none("relative_error"),
        finite=fields.flag("finite"),
        beyond=fields.flag("beyond"),
    )
