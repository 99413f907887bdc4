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
#: In the count: layers of which TensorRT does not tell every type, and layers without tensors.
UNKNOWN, NO_TENSORS = "unknown", "none"
FLOATS = tuple(name for name, _ in _FLOAT_TYPES)
#: The inspector's fields that name a type, in lower case; 11.x writes another case than 10.x.
_TYPE_FIELDS = frozenset({"datatype", "format/datatype"})
#: `name (Half[1,64:8,80,120])`, as 8.6 logs a tensor, or `name[Half(1,64,80,120)]`, as before it.
_LOGGED_TYPE = re.compile(
    r"(?:\((?=\w+\[)|\[(?=\w+\())(Float|Half|BFloat16|BF16|FP8|U?Int\d+|Bool)[\[(]"
)


def layers_of_inspector(information: str) -> list[LayerTypes]:
    """Read the layers' types from the engine inspector's JSON.

    Raises:
        ValueError: it is no JSON object.
    """
    # Not strict: 8.6 leaves the line ends of its layers' comments as they are.
    content = json.loads(information, strict=False)
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    listed = content.get("Layers")
    return [
        (_inspected_types(layer.get("Outputs")), _inspected_types(layer.get("Inputs")))
        for layer in (listed if isinstance(listed, list) else [])
        if isinstance(layer, dict)  # a bare name where the engine was built without detail
    ]


def _inspected_types(tensors: object) -> list[str]:
    return [
        " ".join(str(value) for field, value in tensor.items() if field.lower() in _TYPE_FIELDS)
        for tensor in (tensors if isinstance(tensors, list) else [])
        if isinstance(tensor, dict)
    ]


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


def layers_of_log(listing: str) -> list[LayerTypes]:
    """Read the layers' types from the "Engine Layer Information" that 8.6 logs."""
    layers = []
    for line in listing.splitlines():
        # Names hold commas and brackets of every kind: what stands behind the tactic decides.
        _, tactic, tensors = line.rpartition(", Tactic: ")
        inputs, arrow, outputs = tensors.partition("->")
        if line.startswith("Layer(") and tactic and arrow:
            layers.append((_LOGGED_TYPE.findall(outputs), _LOGGED_TYPE.findall(inputs)))
    return layers


#: How the messages begin in which the builder lists its layers, and what reads them: 8.6, and 10.x
#: and later.
LISTINGS = {"Engine Layer Information:": layers_of_log, "Layers:": layers_of_listing}


def layers_by_precision(layers: Iterable[LayerTypes]) -> dict[str, int]:
    """Count layers by the precision that they work in.

    That is the floating type of what a layer gives, else of what it takes; a layer that touches
    no floats counts by its integers, and one without tensors (a shape's arithmetic) as ``none``.
    One that reads int8 alone multiplies int8, though it may give its sums as floats, as the
    convolutions of TensorRT for RTX do.  A layer of which a type is not told counts as
    ``unknown``, unless it is known to touch halves.
    """
    counts: Counter[str] = Counter()
    for outputs, inputs in layers:
        if inputs and all(re.search(r"\bint8\b", text, re.I) for text in inputs):
            counts["int8"] += 1
            continue
        texts = (*outputs, *inputs)
        found = [_type_of(text) for text in texts]
        floats = [name for name in found if name in FLOATS]
        if UNKNOWN in found and not {"fp16", "bf16", "fp8"} & set(floats):
            counts[UNKNOWN] += 1
        else:
            counts[(floats or found or [NO_TENSORS])[0]] += 1
    return dict(sorted(counts.items()))


def _type_of(text: str) -> str:
    for name, pattern in (*_FLOAT_TYPES, *_INTEGER_TYPES):
        if pattern.search(text):
            return name
    return UNKNOWN


def known_layers(layers: dict[str, int]) -> int:
    """Return how many layers have types that TensorRT told."""
    return sum(count for name, count in layers.items() if name not in (UNKNOWN, NO_TENSORS))


def census(layers: dict[str, int]) -> str:
    """Return the count in words, e.g. ``24 layers fp16, 2 fp32``."""
    parts = sorted(layers.items(), key=lambda entry: -entry[1])
    return ", ".join(
        f"{count} {'layers ' if index == 0 else ''}{name}"
        for index, (name, count) in enumerate(parts)
    )


def layers_in_words(layers: dict[str, int], source: str) -> str:
    """Return what a sidecar says of its engine's layers, and who told it, or why nobody did."""
    return f"{census(layers)} ({source})" if layers else f"layers {source}"
