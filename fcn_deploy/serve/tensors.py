"""Requests and answers of Open Inference as tensors: JSON, and the binary data behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.serve.errors import RequestError, TooLargeError, UnsupportedError

#: Of the JSON's length, in requests and answers that have binary data behind it.
HEADER_LENGTH = "Inference-Header-Content-Length"
INPUT, OUTPUT, DATATYPE = "image", "mask", "UINT8"
ID_LENGTH = 256
#: How every value of a mask is written in JSON.
_WRITTEN = [b"%d" % value for value in range(256)]
#: Parameters of extensions that clients know, and what these are called.
_EXTENSIONS = {
    "classification": "classification",
    "shared_memory_region": "shared memory",
    "shared_memory_byte_size": "shared memory",
    "shared_memory_offset": "shared memory",
    "sequence_id": "sequences",
    "sequence_start": "sequences",
    "sequence_end": "sequences",
    "priority": "schedule policy",
    "timeout": "schedule policy",
}


@dataclass(frozen=True)
class InferRequest:
    """What a client asks.

    Attributes:
        images: uint8 [N, H, W, 3].
        id: that the answer is to bear, or None.
        binary: whether the mask goes out as bytes, not as JSON.
    """

    images: NDArray[np.uint8]
    id: str | None
    binary: bool

    @classmethod
    def from_body(
        cls,
        body: bytes,
        header_length: str | None,
        *,
        max_json_bytes: int,
        require_size: Callable[[int, int, int], None],
    ) -> InferRequest:
        """Read a body.

        Args:
            body: JSON, with the values of the tensor in it or behind it.
            header_length: the request's ``Inference-Header-Content-Length``, if it has any.
            max_json_bytes: bytes that the JSON may have.
            require_size: raises where pictures of (N, H, W) are not taken.

        Raises:
            RequestError: what is wrong with it.
            TooLargeError: its JSON is too large.
        """
        split = _json_length(body, header_length)
        if split > max_json_bytes:
            raise TooLargeError(
                f"the JSON has more than {max_json_bytes} bytes", "send the pixels as binary data"
            )
        fields = _object(_parsed(memoryview(body)[:split]), "the request")
        refuse_unknown(fields, ("id", "parameters", "inputs", "outputs"), "the request")
        parameters = _parameters(fields, ("binary_data_output",), "the request")
        name = fields.get("id")
        if name is not None and not (isinstance(name, str) and len(name) <= ID_LENGTH):
            raise RequestError(f"id must be a text of at most {ID_LENGTH} letters")
        binary = _is_binary(fields, _flag(parameters, "binary_data_output", False))
        images = _image(fields, memoryview(body)[split:], require_size)
        return cls(images, name or None, binary)


def _json_length(body: bytes, header: str | None) -> int:
    if header is None:
        return len(body)
    if not (header.isascii() and header.isdigit() and len(header) <= 18):
        raise RequestError(f"{HEADER_LENGTH} must be a number")
    if not 0 < int(header) <= len(body):
        raise RequestError(f"{HEADER_LENGTH} is {int(header)}, and the body has {len(body)} bytes")
    return int(header)


def _parsed(text: memoryview) -> Any:
    try:
        return json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:  # of text that is no UTF-8 as well
        raise RequestError(f"the request is no JSON ({str(error)[:120]})") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{where} must be a JSON object")
    return value


def refuse_unknown(fields: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse names that the server does not know.

    Args:
        fields: of a part of the request.
        known: names that it may have.
        where: what the part is called.

    Raises:
        UnsupportedError: one belongs to an extension of the protocol.
        RequestError: one is unknown.
    """
    for name in fields:
        if name in known:
            continue
        if (extension := _EXTENSIONS.get(name)) is not None:
            raise UnsupportedError(
                f"the extension {extension!r} is not supported ({name!r} of {where})"
            )
        raise RequestError(f"{where} has {name[:80]!r}, which is not supported")


def _parameters(fields: Mapping[str, Any], known: Collection[str], where: str) -> dict[str, Any]:
    parameters = _object(fields.get("parameters", {}), f"parameters of {where}")
    refuse_unknown(parameters, known, where)
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false")
    return value


def _is_binary(fields: Mapping[str, Any], default: bool) -> bool:
    """Return whether the mask is wanted as bytes, after a check of the outputs."""
    outputs = fields.get("outputs", [])
    if not isinstance(outputs, list):
        raise RequestError("outputs must be a list")
    if len(outputs) > 1:
        raise RequestError(f"the model has one output, {OUTPUT!r}, and {len(outputs)} are asked")
    for entry in outputs:
        output = _object(entry, "an output")
        refuse_unknown(output, ("name", "parameters"), "an output")
        if output.get("name") != OUTPUT:
            raise RequestError(f"the model's output is {OUTPUT!r}, not {_shown(output, 'name')}")
        parameters = _parameters(output, ("binary_data",), f"output {OUTPUT!r}")
        return _flag(parameters, "binary_data", default)
    return default


def _shown(fields: Mapping[str, Any], name: str) -> str:
    return repr(fields.get(name))[:80]


def _image(
    fields: Mapping[str, Any], binary: memoryview, require_size: Callable[[int, int, int], None]
) -> NDArray[np.uint8]:
    inputs = fields.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise RequestError(f"inputs must be a list of one tensor, {INPUT!r}")
    tensor = _object(inputs[0], "an input")
    refuse_unknown(tensor, ("name", "datatype", "shape", "parameters", "data"), "an input")
    if tensor.get("name") != INPUT:
        raise RequestError(f"the model's input is {INPUT!r}, not {_shown(tensor, 'name')}")
    if tensor.get("datatype") != DATATYPE:
        raise RequestError(f"{INPUT!r} is {DATATYPE}, not {_shown(tensor, 'datatype')}")
    shape = image_shape(tensor.get("shape"))
    require_size(*shape[:3])
    values = shape[0] * shape[1] * shape[2] * 3
    size = _parameters(tensor, ("binary_data_size",), f"input {INPUT!r}").get("binary_data_size")
    if size is None:
        if len(binary):
            raise RequestError(f"{len(binary)} bytes follow the JSON, which names none")
        return np.frombuffer(_values(tensor.get("data"), shape), dtype=np.uint8).reshape(shape)
    if "data" in tensor:
        raise RequestError(f"{INPUT!r} has data both in JSON and behind it")
    if type(size) is not int or size != values:
        raise RequestError(
            f"binary_data_size of shape {shape} is {values}, not {_shown({'': size}, '')}"
        )
    if len(binary) != size:
        raise RequestError(f"{len(binary)} bytes follow the JSON, and it names {size}")
    return np.frombuffer(binary, dtype=np.uint8).reshape(shape)


def image_shape(given: Any) -> list[int]:
    """Return N, H, W and 3.

    Raises:
        RequestError: these are other sizes.
    """
    sizes = given if isinstance(given, list) else []
    # A bool is an int to Python, and none to a client that means a size.
    if len(sizes) != 4 or not all(type(size) is int and 0 <= size < 2**31 for size in sizes):
        raise RequestError(f"shape of {INPUT!r} must be [N, H, W, 3], not {repr(given)[:80]}")
    if sizes[3] != 3:
        raise RequestError(f"{INPUT!r} has 3 channels, which come last, not {sizes[3]}")
    return sizes


def _values(data: Any, shape: Sequence[int]) -> bytes:
    """Return the values of JSON data, which may be nested as the shape is, or flat."""
    if not isinstance(data, list):
        raise RequestError(f"{INPUT!r} has neither data nor a binary_data_size")
    if data and isinstance(data[0], list):
        level: list[Any] = [data]
        for size in shape:
            if not all(isinstance(part, list) and len(part) == size for part in level):
                raise RequestError(f"data of {INPUT!r} is not nested as its shape {list(shape)} is")
            level = list(chain.from_iterable(level))
        data = level
    expected = shape[0] * shape[1] * shape[2] * shape[3]
    if len(data) != expected:
        raise RequestError(f"data of {INPUT!r} has {len(data)} values, and its shape {expected}")
    try:
        if set(map(type, data)) != {int}:  # `bytes` takes true for 1
            raise TypeError
        return bytes(data)
    except (TypeError, ValueError):
        raise RequestError(f"data of {INPUT!r} must be whole numbers from 0 to 255") from None


def render(
    mask: NDArray[np.uint8], request: InferRequest, model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """Return the body of an answer, and its headers.

    Args:
        mask: uint8 [N, H, W].
        request: what was asked.
        model: its name.
        version: and version.
    """
    output: dict[str, Any] = {"name": OUTPUT, "datatype": DATATYPE, "shape": list(mask.shape)}
    fields: dict[str, Any] = {"model_name": model, "model_version": version}
    if request.id is not None:
        fields["id"] = request.id
    fields["outputs"] = [output]
    if request.binary:
        output["parameters"] = {"binary_data_size": mask.size}
        head = json.dumps(fields).encode()
        headers = {HEADER_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
        return b"".join((head, np.ascontiguousarray(mask).data)), headers
    # Written by hand: json makes a Python object of every pixel first.
    head = json.dumps(fields).encode().removesuffix(b"}]}")
    values = b",".join([_WRITTEN[value] for value in mask.tobytes()])
    return b'%s, "data": [%s]}]}' % (head, values), {"Content-Type": "application/json"}
