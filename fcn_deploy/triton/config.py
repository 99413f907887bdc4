"""config.pbtxt: what Triton is told of the model, in protobuf's text form.

Triton's schema is ``model_config.proto``; `tritonclient` carries it as ``ModelConfig`` of
``tritonclient.grpc.model_config_pb2``, and the tests parse under it what is written here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import BatchShape
from fcn_deploy.triton.model import ServedModel, Tensor

LABELS_FILE = "labels.txt"
#: Requests that may wait; what comes then is refused at once, and not late.
MAX_QUEUE_SIZE = 128
_DATA_TYPES = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32", "float16": "TYPE_FP16"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def require_name(name: str, taken: Collection[str] = ()) -> None:
    """Refuse a name that cannot be a model's: of a directory, and of a part of a URL.

    Args:
        name: that was asked for.
        taken: names of what lies beside the model.

    Raises:
        InputError: it cannot be.
    """
    if not _NAME.fullmatch(name) or name in taken:
        raise InputError(
            f"{name!r} cannot be the name of a model: it becomes a directory and a part of a URL",
            "choose with --name up to 128 letters, digits, '_', '-' and '.', not '-' or '.' first",
        )


def config_text(name: str, model: ServedModel, max_batch: int) -> str:
    """Return the content of config.pbtxt.

    Args:
        name: of the model.
        model: what is served.
        max_batch: of :meth:`ServedModel.batch_limit`.
    """
    lines = [
        f"# Written by `fcn-deploy package triton` for {model.digest}.",
        f'name: "{name}"',
        f'platform: "{model.platform}"',
        *_batch_note(max_batch),
        f"max_batch_size: {max_batch}",
        "input [",
        *_tensor(model.image, max_batch),
        "]",
        "output [",
        *_joined(_tensor(output, max_batch) for output in model.outputs),
        "]",
    ]
    if max_batch:
        lines += _dynamic_batching()
    lines += _instance_group(len(model.profiles))
    samples = [_sample(shape, max_batch) for shape in model.warm_up_shapes(max_batch)]
    lines += ["model_warmup [", *_joined(samples), "]"]
    return "\n".join(lines) + "\n"


def _batch_note(max_batch: int) -> list[str]:
    if max_batch:
        return ["# Requests are [N, H, W, 3] with N up to this; dims leave N out."]
    return ["# The model takes one N alone: Triton makes no batches, and dims hold N."]


def _tensor(tensor: Tensor, max_batch: int) -> list[str]:
    dims = tensor.shape[1:] if max_batch else tensor.shape
    lines = [
        "  {",
        f'    name: "{tensor.name}"',
        f"    data_type: {_DATA_TYPES[tensor.dtype]}",
        f"    dims: {_dims(dims)}",
    ]
    if tensor.name == "mask":  # line i names class i
        lines.append(f'    label_filename: "{LABELS_FILE}"')
    return [*lines, "  }"]


def _dynamic_batching() -> list[str]:
    return [
        "# Requests of one size that wait go together; none waits for others to come.",
        "dynamic_batching {",
        "  max_queue_delay_microseconds: 0",
        "  default_queue_policy {",
        "    timeout_action: REJECT",
        "    allow_timeout_override: true",
        f"    max_queue_size: {MAX_QUEUE_SIZE}",
        "  }",
        "}",
    ]


def _instance_group(profiles: int) -> list[str]:
    """Return how many instances there are: one on each GPU, or one on the CPU."""
    lines = ["instance_group [", "  {", "    count: 1", "    kind: KIND_AUTO"]
    if profiles > 1:  # unless named, Triton uses the first alone
        numbers = ", ".join(f'"{index}"' for index in range(profiles))
        lines.append(f"    profile: [ {numbers} ]")
    return [*lines, "  }", "]"]


def _sample(shape: BatchShape, max_batch: int) -> list[str]:
    images, height, width = shape
    dims = (height, width, 3) if max_batch else (images, height, width, 3)
    return [
        "  {",
        f'    name: "{images}x{height}x{width}"',
        f"    batch_size: {images if max_batch else 1}",
        "    inputs {",
        '      key: "image"',
        f"      value {{ data_type: TYPE_UINT8 dims: {_dims(dims)} zero_data: true }}",
        "    }",
        "  }",
    ]


def _dims(dims: Iterable[int]) -> str:
    return f"[ {', '.join(map(str, dims))} ]"


def _joined(messages: Iterable[list[str]]) -> list[str]:
    """Return the lines of the elements of a list, with commas between them."""
    lines: list[str] = []
    for message in messages:
        if lines:
            lines[-1] += ","
        lines += message
    return lines
