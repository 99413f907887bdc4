"""The page at ``/``: routes, and those of its paths that bear no token."""

from __future__ import annotations

from starlette.routing import BaseRoute

from fcn_deploy.serve.service import Service

#: Paths that a browser opens without a token: files of ours, nothing of the model.
OPEN_PATHS: frozenset[str] = frozenset()


def routes(service: Service) -> list[BaseRoute]:
    """Return the routes of the page and its files."""
    return []
