"""Open Inference (KServe v2) over HTTP: the routes that ``tritonclient`` asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fcn_deploy.serve import descriptions, requests, tensors
from fcn_deploy.serve.compressed import decoded, is_compressed
from fcn_deploy.serve.errors import TooLargeError, UnavailableError
from fcn_deploy.serve.service import Service

_Endpoint = Callable[[Request], Awaitable[Response]]


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the protocol, those of the model with and without a version."""

    async def server_metadata(request: Request) -> Response:
        return JSONResponse(descriptions.server_metadata())

    async def all_statistics(request: Request) -> Response:
        return JSONResponse(descriptions.model_statistics(service))

    async def model_metadata(request: Request) -> Response:
        return JSONResponse(descriptions.model_metadata(service))

    async def model_ready(request: Request) -> Response:
        if not service.ready:
            raise UnavailableError(f"the model is {service.state.value}")
        return JSONResponse({"name": service.name, "ready": True})

    async def model_config(request: Request) -> Response:
        return JSONResponse(descriptions.model_config(service))

    async def model_statistics(request: Request) -> Response:
        return JSONResponse(descriptions.model_statistics(service))

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


def _of_model(service: Service, path: str, endpoint: _Endpoint, method: str = "GET") -> list[Route]:
    async def checked(request: Request) -> Response:
        asked = request.path_params
        service.require_model(asked["model"], asked.get("version"))
        return await endpoint(request)

    checked.__name__ = endpoint.__name__  # the route's name in the metrics
    return [
        Route(f"/v2/models/{{model}}{version}{path}", checked, methods=[method])
        for version in ("", "/versions/{version}")
    ]


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
    with requests.client_watched(request) as gone:
        answer = await requests.infer(request, service, asked.images, gone)
    content, headers = tensors.render(answer.mask, asked, service.name, service.VERSION)
    return Response(content, headers=headers)
