"""Open Inference (KServe v2) over HTTP: the routes that ``tritonclient`` asks."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fcn_deploy import __version__
from fcn_deploy.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the protocol, each with and without a version."""

    async def server_metadata(request: Request) -> Response:
        return JSONResponse(
            {"name": "fcn-deploy", "version": __version__, "extensions": ["binary_tensor_data"]}
        )

    return [Route("/v2", server_metadata)]
