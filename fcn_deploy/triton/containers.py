"""Which of NVIDIA's containers runs the model, and the Compose file that starts it."""

from __future__ import annotations

from fcn_deploy.tensorrt.engine_file import EngineSidecar
from fcn_deploy.tensorrt.portability import (
    Portability,
    fits_release,
    portability_of,
    version_numbers,
)
from fcn_deploy.triton.model import ServedModel

IMAGE = "nvcr.io/nvidia/tritonserver"
SUPPORT_MATRIX = "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"
#: For ONNX files, which are bound to no release: by the project's compatibility table
#: (docs/introduction/compatibility.md of triton-inference-server/server) this one has
#: ONNX Runtime 1.27.0.
ONNX_TAG = "26.07-py3"
#: TensorRT release → tag of the container that has it.  Read in the release notes of these
#: containers (docs/introduction/release_notes.md at the commits of their releases), 24.02 in a
#: maintainer's answer (issue 6959), all of triton-inference-server/server.  The releases of the
#: containers in between were found in no source: the table of that repository that goes on to 26.07
#: is of the TensorRT-LLM containers, which have another TensorRT.
TENSORRT_TAGS = {
    "8.6.3": "24.02-py3",
    "10.3.0.26": "24.08-py3",
    "10.5.0.18": "24.10-py3",
    "10.7.0.23": "24.12-py3",
    "10.8.0.43": "25.01-py3",
}
#: What names the tag where none is known.
TAG_VARIABLE = "TRITON_TAG"


def container_tag(model: ServedModel) -> str | None:
    """Return the tag of a container that loads the model, or None where none is known.

    An engine loads in the release that built it; a version-compatible one in later ones too.
    """
    if model.engine is None:
        return ONNX_TAG
    built = version_numbers(model.engine.version)
    for release, tag in TENSORRT_TAGS.items():
        numbers = version_numbers(release)
        both = min(len(numbers), len(built))  # either may tell fewer
        if numbers[:both] == built[:both]:
            return tag
    if not is_version_compatible(model.engine):
        return None
    later = (
        tag
        for release, tag in TENSORRT_TAGS.items()
        if fits_release(Portability.VERSION, model.engine.version, release)
    )
    return next(later, None)


def is_version_compatible(engine: EngineSidecar) -> bool:
    """Say whether an engine loads in later releases of TensorRT, where Triton is told so."""
    return portability_of(engine.flags) is Portability.VERSION


def server_arguments(model: ServedModel) -> list[str]:
    """Return the options of `tritonserver`, short of where the repository lies."""
    if model.engine is not None and is_version_compatible(model.engine):
        return ["--backend-config=tensorrt,version-compatible=true"]
    return []


def compose_text(model: ServedModel) -> str:
    """Return a Compose file; where no tag is known it asks for one, and starts nothing else."""
    tag = container_tag(model)
    command = ["tritonserver", "--model-repository=/models", *server_arguments(model)]
    lines = [
        "# Written by `fcn-deploy package triton`; README.md says how to start it.",
        "services:",
        "  triton:",
        f'    image: "{IMAGE}:{tag or _asked_for(model)}"',
        "    command:",
        *(f'      - "{word}"' for word in command),
        "    volumes:",
        '      - ".:/models:ro"',
        "    ports:  # HTTP, gRPC, metrics; for this machine alone",
        *(f'      - "127.0.0.1:{port}:{port}"' for port in (8000, 8001, 8002)),
        '    stop_grace_period: "60s"',
    ]
    gpus = [
        "    deploy:",
        "      resources:",
        "        reservations:",
        "          devices:",
        '            - { driver: nvidia, count: all, capabilities: ["gpu"] }',
    ]
    if model.engine is None:
        lines.append("    # With an NVIDIA GPU and its container toolkit, take the # away:")
        gpus = [f"    #{line[4:]}" for line in gpus]
    return "\n".join([*lines, *gpus]) + "\n"


def _asked_for(model: ServedModel) -> str:
    assert model.engine is not None  # for an ONNX file a tag is known
    reason = f"no tag is known for TensorRT {model.engine.version}, README.md says what to do"
    return f"${{{TAG_VARIABLE}:?{reason}}}"
