"""README.md of a repository: how to start it, how to ask it, what it takes, where it belongs."""

from __future__ import annotations

from fcn_deploy.core.spec import Precision, ShapeProfile
from fcn_deploy.tensorrt.engine_file import EngineSidecar
from fcn_deploy.tensorrt.portability import Portability, portability_of
from fcn_deploy.triton.config import MAX_QUEUE_SIZE
from fcn_deploy.triton.containers import (
    IMAGE,
    SUPPORT_MATRIX,
    TAG_VARIABLE,
    container_tag,
    is_version_compatible,
    server_arguments,
)
from fcn_deploy.triton.model import ServedModel, Tensor


def readme_text(name: str, model: ServedModel, max_batch: int) -> str:
    """Return the content of README.md.

    Args:
        name: of the model.
        model: what is served.
        max_batch: of :meth:`ServedModel.batch_limit`.
    """
    sections = [
        f"# {name}: a model repository for Triton Inference Server\n\n"
        f"A segmentation network ({model.spec.architecture}, {model.precision.value}) that takes "
        "RGB pictures as bytes and gives\nthe class of each pixel as a byte. Written by "
        "`fcn-deploy package triton`.",
        _start(model),
        _ask(name),
        _takes(model, max_batch),
        _belongs(model),
        _classes(model),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _start(model: ServedModel) -> str:
    words = " ".join(["tritonserver", "--model-repository=/path/to/this/folder"])
    words = " ".join([words, *server_arguments(model)])
    tag = container_tag(model)
    command = "docker compose up" if tag else f"{TAG_VARIABLE}=YY.MM-py3 docker compose up"
    text = f"## Start\n\n```sh\n{command}\n```\n\n"
    if model.engine is None:
        text += "With an NVIDIA GPU, first take the # from the last lines of `compose.yaml`."
    else:
        text += "This needs an NVIDIA GPU and the NVIDIA container toolkit."
    if tag is None:
        text += f"\n\n{_unknown_tag(model)}"
    return (
        f"{text}\n\nWithout Docker, where Triton is installed:\n\n```sh\n{words}\n```\n\n"
        "It then listens on all addresses of the machine, unless `--http-address`, "
        "`--grpc-address` and\n`--metrics-address` name one.\n\n"
        "It is ready when `curl -f http://127.0.0.1:8000/v2/health/ready` ends without an error: "
        "first it\nruns the batches of `model_warmup`."
    )


def _unknown_tag(model: ServedModel) -> str:
    assert model.engine is not None  # for an ONNX file a tag is known
    version = model.engine.version
    releases = "that or a later release" if is_version_compatible(model.engine) else "that release"
    return (
        f"**No container is known that has TensorRT {version}**, and this engine loads with "
        f"{releases} alone.\nLook it up in NVIDIA's\n[support matrix]({SUPPORT_MATRIX})\n"
        f"and give the tag as `{TAG_VARIABLE}`. This shows what a container has:\n\n"
        f"```sh\ndocker run --rm {IMAGE}:YY.MM-py3 sh -c 'dpkg -l | grep libnvinfer'\n```\n\n"
        "Where no container has it, build the engine with the TensorRT of a container, on the "
        f"machine\nthat serves: `{model.engine.command}`."
    )


def _ask(name: str) -> str:
    return f"""## Ask

`pip install 'tritonclient[http]' pillow`, then:

```python
import numpy as np
import tritonclient.http as triton
from PIL import Image, ImageOps

picture = np.array(ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB"))[None]

client = triton.InferenceServerClient("127.0.0.1:8000")
image = triton.InferInput("image", picture.shape, "UINT8").set_data_from_numpy(picture)
mask = client.infer("{name}", [image]).as_numpy("mask")[0]  # uint8 [H, W]
```"""


def _takes(model: ServedModel, max_batch: int) -> str:
    rows = [_tensor_row(model.image), *(_tensor_row(output) for output in model.outputs)]
    table = "\n".join(["| tensor | type | shape |", "|---|---|---|", *rows])
    lines = [f"- Sizes: {_sizes(model)}."]
    if max_batch:
        least = f"{model.least_batch} to " if model.least_batch > 1 else "up to "
        lines.append(
            f"- A request holds {least}{max_batch} pictures of one size. Requests of one size that "
            "wait are run\n  together; Triton does not wait for more of them "
            "(`max_queue_delay_microseconds`)."
        )
        lines.append(
            f"- {MAX_QUEUE_SIZE} requests may wait; what comes then is refused. A request may name "
            "a timeout of its own."
        )
    else:
        lines.append(
            f"- A request holds {model.fixed_batch} pictures, as the network takes no other "
            "number: Triton makes no batches."
        )
    shapes = ", ".join("×".join(map(str, s)) for s in model.warm_up_shapes(max_batch))
    lines.append(
        f"- Warm-up (N×H×W): {shapes}.\n  These are the sizes of the training images; of an "
        "imported network that names none they are\n  a default, for you to change in "
        "`config.pbtxt`."
    )
    if model.precision is Precision.INT8 and model.engine is None:
        lines.append(
            "- On a CPU, masks may differ in some pixels from those of `fcn-deploy`: it rewrites "
            "an INT8 network\n  for the CPU as it opens it. Triton opens the file as it is."
        )
    return f"## What it takes and gives\n\n{table}\n\n" + "\n".join(lines)


def _tensor_row(tensor: Tensor) -> str:
    names = {"image": "NHWC", "mask": "NHW", "margin": "NHW", "logits": "NCHW"}
    shape = ", ".join(
        letter if size == -1 else str(size)
        for letter, size in zip(names[tensor.name], tensor.shape, strict=True)
    )
    return f"| `{tensor.name}` | {tensor.dtype} | {shape} |"


def _sizes(model: ServedModel) -> str:
    taken = model.spec.input_shape.size_words
    if not model.profiles:
        return taken
    ranges = ", ".join(map(_range_words, model.profiles))
    return ranges if taken == "any size" else f"{ranges}; {taken}"


def _range_words(profile: ShapeProfile) -> str:
    (_, *low), (_, *high) = profile.smallest, profile.largest
    if low == high:
        return f"{low[0]}×{low[1]}"
    return f"{low[0]}×{low[1]} to {high[0]}×{high[1]}"


def _belongs(model: ServedModel) -> str:
    if model.engine is None:
        return (
            f"## Where it runs\n\nOn a CPU and on an NVIDIA GPU, by Triton's ONNX Runtime.\n"
            f"`model.onnx` is `{model.digest}`."
        )
    engine = model.engine
    built_on = f", built on {engine.gpu_name}" if engine.gpu_name else ""
    driver = f"\n- CUDA {engine.driver} is what the driver had that built it" * bool(engine.driver)
    return f"""## Where it runs

An engine is bound to what it was built for:

- TensorRT {engine.version}{_or_later(engine)}
- GPUs of compute capability {_capabilities(engine)}{built_on}
- {engine.system}{driver}

Elsewhere it does not load. To build one there: `{engine.command}`.
`model.plan` is `{engine.plan_digest}`, of the ONNX file
`{engine.onnx_digest}`; `model.plan.json` beside it holds the rest."""


def _or_later(engine: EngineSidecar) -> str:
    return " and later, where Triton is told so (as above)" * is_version_compatible(engine)


def _capabilities(engine: EngineSidecar) -> str:
    names = ", ".join(engine.compute_capabilities)
    ampere = portability_of(engine.flags) is Portability.AMPERE
    return f"{names}, and all others from sm80 on but those of Jetson" if ampere else names


def _classes(model: ServedModel) -> str:
    rows = [
        f"| {index} | {' '.join(label.split()).replace('|', '&#124;')} | {red}, {green}, {blue} |"
        for index, (label, (red, green, blue)) in enumerate(
            zip(model.spec.class_names, model.spec.palette, strict=True)
        )
    ]
    table = "\n".join(["| value | class | colour |", "|---|---|---|", *rows])
    return f"## Classes\n\n`labels.txt` holds them by line.\n\n{table}"
