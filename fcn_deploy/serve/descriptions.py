"""What a server says of itself and its model, in the words of Open Inference and of Triton.

As JSON over HTTP; the messages of gRPC have the same fields.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from fcn_deploy.serve import tensors
from fcn_deploy.serve.metrics import Tally
from fcn_deploy.serve.service import Service


def server_metadata() -> dict[str, Any]:
    """Return name, version and extensions of the server."""
    return {
        "name": "fcn-deploy",
        "version": _version(),
        "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
    }


def model_metadata(service: Service) -> dict[str, Any]:
    """Return the tensors that the model takes and gives."""
    shape = service.spec.input_shape
    sizes = [shape.batch or -1, shape.height or -1, shape.width or -1]
    return {
        "name": service.name,
        "versions": [service.VERSION],
        "platform": f"fcn_deploy_{service.description.backend}",
        "inputs": [{"name": tensors.INPUT, "datatype": tensors.DATATYPE, "shape": [*sizes, 3]}],
        "outputs": [{"name": tensors.OUTPUT, "datatype": tensors.DATATYPE, "shape": sizes}],
    }


def model_config(service: Service) -> dict[str, Any]:
    """Return what Triton's model configuration says of a model like this one."""
    spec, settings = service.spec, service.settings
    sizes = [spec.input_shape.height or -1, spec.input_shape.width or -1]
    colours = [f"{red},{green},{blue}" for red, green, blue in spec.palette]
    return {
        "name": service.name,
        "platform": "",
        "backend": f"fcn_deploy_{service.description.backend}",
        "max_batch_size": service.max_batch,
        "input": [{"name": tensors.INPUT, "data_type": "TYPE_UINT8", "dims": [*sizes, 3]}],
        "output": [{"name": tensors.OUTPUT, "data_type": "TYPE_UINT8", "dims": sizes}],
        "dynamic_batching": {
            "max_queue_delay_microseconds": int(settings.max_delay_ms * 1000),
            "default_queue_policy": {"max_queue_size": settings.max_queue},
        },
        "parameters": {
            "classes": {"string_value": "\n".join(spec.class_names)},
            "palette": {"string_value": "\n".join(colours)},
        },
    }


def model_statistics(service: Service) -> dict[str, Any]:
    """Return counts and times since the start, in Triton's form."""
    found = service.metrics.statistics
    return {
        "model_stats": [
            {
                "name": service.name,
                "version": service.VERSION,
                "last_inference": found.last,
                "inference_count": found.pictures,
                "execution_count": sum(tally.count for tally in found.batches.values()),
                "inference_stats": {
                    "success": _duration(found.success),
                    "fail": _duration(found.fail),
                    "queue": _duration(found.queue),
                    "compute_input": _duration(Tally()),
                    "compute_infer": _duration(found.compute),
                    "compute_output": _duration(Tally()),
                },
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": _duration(Tally()),
                        "compute_infer": _duration(tally),
                        "compute_output": _duration(Tally()),
                    }
                    for size, tally in sorted(found.batches.items())
                ],
            }
        ]
    }


def _duration(tally: Tally) -> dict[str, int]:
    return {"count": tally.count, "ns": int(tally.seconds * 1e9)}


@cache
def _version() -> str:
    try:
        return metadata.version("fcn-deploy")
    except metadata.PackageNotFoundError:  # run from its sources
        return "unknown"
