"""Health as balancers ask for it, and ``/metrics`` for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fcn_deploy.serve.errors import UnavailableError
from fcn_deploy.serve.service import Service

#: Asked by balancers, which bear no token.
OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of health and metrics."""

    async def live(request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(request: Request) -> Response:
        if not service.ready:
            raise UnavailableError(f"the server is {service.state.value}")
        return JSONResponse({"ready": True})

    async def metrics(request: Request) -> Response:
        return Response(service.metrics.text(service.ready), media_type=CONTENT_TYPE_LATEST)

    return [
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/metrics", metrics),
    ]
