"""Counts the layers of a built engine by the precision that TensorRT chose."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable

#: TensorRT's words for a tensor's type, ours behind them; floats first, because they decide.
_FLOAT_TYPES = (
    ("fp16", re.compile(r"\bhalf\b|\bfp16\b", re.I)),
    ("bf16", re.compile(r"\bbf(loat)?16\b", re.I)),
    ("fp8", re.compile(r"\bfp8", re.I)),
    ("fp32", re.compile(r"\bfloat\b|\bfp32\b", re.I)),
)
_INTEGER_TYPES = tuple(
    (name, re.compile(rf"\b{name}\b", re.I)) for name in ("int8", "uint8", "int32", "int64", "bool")
)
#: The types of a layer's outputs and inputs, in TensorRT's words.
LayerTypes = tuple[list[str], list[str]]


def layers_of_inspector(information: str) -> list[LayerTypes]:
    """Read the layers' types from the engine inspector's JSON."""
    layers = []
    # Not strict: 8.6 leaves the line ends of its layers' comments as they are.
    for layer in json.loads(information, strict=False).get("Layers", []):
        if isinstance(layer, dict):  # a bare name where the engine was built without detail
            outputs, inputs = (
                [
                    f"{entry.get('Datatype', '')} {entry.get('Format/Datatype', '')}"
                    for entry in layer.get(side, [])
                ]
                for side in ("Outputs", "Inputs")
            )
            layers.append((outputs, inputs))
    return layers


def layers_of_listing(listing: str) -> list[LayerTypes]:
    """Read the layers' types from the list that the builder logs at its end."""
    layers = []
    for line in listing.splitlines():
        if line.startswith("Name: "):
            inputs, _, outputs = line.partition("Outputs: [")
            outputs = outputs.partition("TacticName: ")[0]
            inputs = inputs.partition("Inputs: [")[2].partition("Constants: [")[0]
            types = [re.findall(r"Datatype: ([^,}]*)", side) for side in (outputs, inputs)]
            layers.append((types[0], types[1]))
    return layers


def layers_by_precision(layers: Iterable[LayerTypes]) -> dict[str, int]:
    """Count layers by the precision that they work in.

    That is the floating type of what a layer gives, else of what it takes; a layer that touches
    no floats counts by its integers, and one without tensors (a shape's arithmetic) as ``none``.
    One that reads int8 alone multiplies int8, though it may give its sums as floats, as the
    convolutions of TensorRT for RTX do.
    """
    counts: Counter[str] = Counter()
    for outputs, inputs in layers:
        if inputs and all(re.search(r"\bint8\b", text, re.I) for text in inputs):
            counts["int8"] += 1
            continue
        found = "none"
        for types in (_FLOAT_TYPES, _INTEGER_TYPES):
            named = [
                name for text in (*outputs, *inputs) for name, pattern in types
                if pattern.search(text)
            ]  # fmt: skip
            if named:
                found = named[0]
                break
        counts[found] += 1
    return dict(sorted(counts.items()))


def census(layers: dict[str, int]) -> str:
    """Return the count in words, e.g. ``24 layers fp16, 2 fp32``."""
    parts = sorted(layers.items(), key=lambda entry: -entry[1])
    return ", ".join(
        f"{count} {'layers ' if index == 0 else ''}{name}"
        for index, (name, count) in enumerate(parts)
    )
