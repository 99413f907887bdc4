"""``POST /predict``: an encoded picture in, a mask, an overlay or the share of each class out."""

from __future__ import annotations

from starlette.routing import BaseRoute

from fcn_deploy.serve.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Return the route; limits are ``service.settings``'."""
    return []
