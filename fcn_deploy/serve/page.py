"""The page at ``/``: routes, and those of its paths that bear no token."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fcn_deploy.serve.pictures import classes_json, model_json
from fcn_deploy.serve.service import Service

#: Path → file in ``static/`` and its type: a system's own table of types may say anything.
_FILES = {
    "/": ("index.html", "text/html"),
    "/static/page.js": ("page.js", "text/javascript"),
    "/static/png.js": ("png.js", "text/javascript"),
    "/static/page.css": ("page.css", "text/css"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: Paths that a browser opens without a token: files of ours, nothing of the model.
OPEN_PATHS = frozenset(_FILES)
#: The page loads and asks nothing but this server, and nobody frames it.  ``blob:`` is a picture
#: that the user gave and the mask that is downloaded.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept, and asked for anew each time: after an update no old script meets a new page.
    "Cache-Control": "no-cache",
}


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the page, its files, and the classes that it shows."""

    async def classes(request: Request) -> Response:
        return JSONResponse(
            {
                **model_json(service),
                "classes": classes_json(service.spec),
                "max_pixels": service.settings.max_pixels,
                "max_body_bytes": service.settings.max_body_bytes,
            },
            headers={"Cache-Control": "no-store"},
        )

    static = [_file_route(path, name, kind) for path, (name, kind) in _FILES.items()]
    return [Route("/classes", classes), *static]


def _file_route(path: str, name: str, media_type: str) -> Route:
    """Return the route of one file, which is read now."""
    content = (files("fcn_deploy.serve") / "static" / name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**_HEADERS, "ETag": etag}

    async def page(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").split(",")
        if etag in (tag.strip().removeprefix("W/") for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return Route(path, page)
