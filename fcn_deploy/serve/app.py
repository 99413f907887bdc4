"""create_app: all routes of a service, with the middleware around them."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from fcn_deploy.serve import health, page, pictures, v2
from fcn_deploy.serve.errors import error_response
from fcn_deploy.serve.middleware import Gate
from fcn_deploy.serve.service import Service


def create_app(service: Service) -> Starlette:
    """Return the application that answers for a service, which somebody else starts and closes.

    Args:
        service: with its settings.
    """
    app = Starlette(
        routes=[
            *v2.routes(service),
            *health.routes(service),
            *pictures.routes(service),
            *page.routes(service),
        ],
        middleware=[
            Middleware(Gate, service=service, open_paths=health.OPEN_PATHS | page.OPEN_PATHS)
        ],
        exception_handlers={HTTPException: _nowhere},
    )
    # A redirect has no {"error": …}, and clients of the protocol do not follow it.
    app.router.redirect_slashes = False
    return app


async def _nowhere(request: Request, error: Exception) -> Response:
    """Answer 404 and 405, which starlette raises where no route fits."""
    if isinstance(error, HTTPException) and error.status_code in (404, 405):
        found = "nothing here" if error.status_code == 404 else "not by this method"
        error.detail = f"{request.method} {request.url.path}: {found}"
    return error_response(error)
