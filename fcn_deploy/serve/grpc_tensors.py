"""Requests and answers of Open Inference over gRPC as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from fcn_deploy.serve.errors import RequestError, UnsupportedError
from fcn_deploy.serve.settings import HEAD_BYTES
from fcn_deploy.serve.tensors import (
    DATATYPE,
    ID_LENGTH,
    INPUT,
    OUTPUT,
    image_shape,
    refuse_unknown,
)

_RAW = service_pb2.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
#: Of protobuf's wire format: a field that says its length, as all of a request do.
_WITH_LENGTH = 2


def parsed(kind: Any, message: bytes) -> Any:
    """Return a message of a kind, whose bytes are few.

    Raises:
        RequestError: they are too many, or something else.
    """
    if len(message) > HEAD_BYTES:
        raise RequestError(
            f"the message has more than {HEAD_BYTES} bytes beside raw_input_contents"
        )
    try:
        return kind.FromString(message)
    except DecodeError:
        raise RequestError(f"the message is no {kind.DESCRIPTOR.name}") from None


def split(message: bytes) -> tuple[Any, memoryview | None]:
    """Return a ``ModelInferRequest`` without its raw contents, and these.

    Parsed as a whole, a message of empty tensors would take many times its length in memory.

    Args:
        message: as it came.

    Raises:
        RequestError: it is no such request, or has contents of several inputs.
    """
    view = memoryview(message)
    head = bytearray()
    raw: memoryview | None = None
    position = 0
    while position < len(view):
        start = position
        tag, position = _varint(view, position)
        if tag & 7 != _WITH_LENGTH:
            raise RequestError("the message is no ModelInferRequest")
        size, position = _varint(view, position)
        if size > len(view) - position:
            raise RequestError("the message is cut off")
        end = position + size
        if tag >> 3 != _RAW:
            head += view[start:end]
        elif raw is None:
            raw = view[position:end]
        else:
            raise RequestError(f"the model has one input, {INPUT!r}, and contents of several came")
        if len(head) > HEAD_BYTES:
            break  # refused below
        position = end
    return parsed(service_pb2.ModelInferRequest, bytes(head)), raw


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(view):
            raise RequestError("the message is cut off")
        byte = view[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise RequestError("the message is no ModelInferRequest")


def images_of(
    request: Any, raw: memoryview | None, require_size: Callable[[int, int, int], None]
) -> NDArray[np.uint8]:
    """Return the pictures of a request, uint8 [N, H, W, 3].

    Args:
        request: a ``ModelInferRequest``, without its raw contents.
        raw: these.
        require_size: raises where pictures of (N, H, W) are not taken.

    Raises:
        RequestError: what is wrong with it.
    """
    if len(request.id) > ID_LENGTH:
        raise RequestError(f"id must be a text of at most {ID_LENGTH} letters")
    refuse_unknown(request.parameters, (), "the request")
    _check_outputs(request)
    if len(request.inputs) != 1:
        raise RequestError(f"the model has one input, {INPUT!r}, and {len(request.inputs)} came")
    (tensor,) = request.inputs
    refuse_unknown(tensor.parameters, (), f"input {INPUT!r}")
    if tensor.name != INPUT:
        raise RequestError(f"the model's input is {INPUT!r}, not {tensor.name[:80]!r}")
    if tensor.datatype != DATATYPE:
        raise RequestError(f"{INPUT!r} is {DATATYPE}, not {tensor.datatype[:80]!r}")
    shape = image_shape(list(tensor.shape))
    require_size(*shape[:3])
    if tensor.HasField("contents"):
        raise UnsupportedError(
            f"typed contents of {INPUT!r} are not supported", "send raw_input_contents"
        )
    if raw is None:
        raise RequestError(f"{INPUT!r} has no raw_input_contents")
    values = shape[0] * shape[1] * shape[2] * 3
    if len(raw) != values:
        raise RequestError(
            f"raw_input_contents of shape {shape} have {values} bytes, not {len(raw)}"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _check_outputs(request: Any) -> None:
    if len(request.outputs) > 1:
        raise RequestError(
            f"the model has one output, {OUTPUT!r}, and {len(request.outputs)} are asked"
        )
    for output in request.outputs:
        refuse_unknown(output.parameters, (), f"output {OUTPUT!r}")
        if output.name != OUTPUT:
            raise RequestError(f"the model's output is {OUTPUT!r}, not {output.name[:80]!r}")


def rendered(mask: NDArray[np.uint8], request: Any, model: str, version: str) -> Any:
    """Return the ``ModelInferResponse``.

    Args:
        mask: uint8 [N, H, W].
        request: what was asked.
        model: its name.
        version: and version.
    """
    response = service_pb2.ModelInferResponse(
        model_name=model, model_version=version, id=request.id
    )
    response.outputs.add(name=OUTPUT, datatype=DATATYPE, shape=mask.shape)
    response.raw_output_contents.append(mask.tobytes())
    return response
