"""Open Inference (KServe v2) over HTTP: the routes that ``tritonclient`` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fcn_deploy.serve import requests, tensors
from fcn_deploy.serve.compressed import decoded, is_compressed
from fcn_deploy.serve.errors import NotFoundError, TooLargeError, UnavailableError
from fcn_deploy.serve.metrics import Tally
from fcn_deploy.serve.service import Service

_Endpoint = Callable[[Request], Awaitable[Response]]


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the protocol, those of the model with and without a version."""

    async def server_metadata(request: Request) -> Response:
        return JSONResponse(
            {
                "name": "fcn-deploy",
                "version": _version(),
                "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
            }
        )

    async def all_statistics(request: Request) -> Response:
        return JSONResponse(_statistics(service))

    async def model_metadata(request: Request) -> Response:
        return JSONResponse(_metadata(service))

    async def model_ready(request: Request) -> Response:
        if not service.ready:
            raise UnavailableError(f"the model is {service.state.value}")
        return JSONResponse({"name": service.name, "ready": True})

    async def model_config(request: Request) -> Response:
        return JSONResponse(_config(service))

    async def model_statistics(request: Request) -> Response:
        return JSONResponse(_statistics(service))

    async def infer(request: Request) -> Response:
        return await _infer(request, service)

    return [
        *_of_model(service, "/infer", infer, "POST"),  # first, as routes are tried in order
        Route("/v2", server_metadata),
        Route("/v2/models/stats", all_statistics),
        *_of_model(service, "", model_metadata),
        *_of_model(service, "/ready", model_ready),
        *_of_model(service, "/config", model_config),
        *_of_model(service, "/stats", model_statistics),
    ]


@cache
def _version() -> str:
    try:
        return metadata.version("fcn-deploy")
    except metadata.PackageNotFoundError:  # run from its sources
        return "unknown"


def _of_model(service: Service, path: str, endpoint: _Endpoint, method: str = "GET") -> list[Route]:
    async def checked(request: Request) -> Response:
        _require_model(request, service)
        return await endpoint(request)

    checked.__name__ = endpoint.__name__  # the route's name in the metrics
    return [
        Route(f"/v2/models/{{model}}{version}{path}", checked, methods=[method])
        for version in ("", "/versions/{version}")
    ]


def _require_model(request: Request, service: Service) -> None:
    model, version = request.path_params["model"], request.path_params.get("version")
    if model != service.name:
        raise NotFoundError(f"there is no model {model[:80]!r}", f"this one is {service.name!r}")
    if version not in (None, service.VERSION):
        raise NotFoundError(
            f"model {service.name!r} has no version {version[:80]!r}",
            f"the only one is {service.VERSION}",
        )


async def _infer(request: Request, service: Service) -> Response:
    settings = service.settings
    encoding = request.headers.get("content-encoding", "")
    compressed = is_compressed(encoding)
    service.require_room()
    body = await requests.read_body(request, settings.max_body_bytes)
    if compressed:
        # Room for the most that it may become: how much it does is known when it lies there.
        requests.take_memory(request, settings.max_body_bytes)
        body = await asyncio.to_thread(decoded, body, encoding, settings.max_body_bytes)
    asked = tensors.InferRequest.from_body(
        body,
        request.headers.get(tensors.HEADER_LENGTH),
        max_json_bytes=settings.max_json_bytes,
        require_size=service.require_size,
    )
    images, height, width, _ = asked.images.shape
    # Up to four letters a pixel.
    if not asked.binary and 4 * images * height * width > settings.max_json_bytes:
        raise TooLargeError(
            "the mask is too large for JSON", "ask for binary data, by binary_data_output"
        )
    answer = await requests.infer(request, service, asked.images)
    content, headers = tensors.render(answer.mask, asked, service.name, service.VERSION)
    return Response(content, headers=headers)


def _metadata(service: Service) -> dict[str, Any]:
    shape = service.spec.input_shape
    sizes = [shape.batch or -1, shape.height or -1, shape.width or -1]
    return {
        "name": service.name,
        "versions": [service.VERSION],
        "platform": f"fcn_deploy_{service.description.backend}",
        "inputs": [{"name": tensors.INPUT, "datatype": tensors.DATATYPE, "shape": [*sizes, 3]}],
        "outputs": [{"name": tensors.OUTPUT, "datatype": tensors.DATATYPE, "shape": sizes}],
    }


def _config(service: Service) -> dict[str, Any]:
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


def _statistics(service: Service) -> dict[str, Any]:
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
