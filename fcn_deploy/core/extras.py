"""Whether the packages of an extra can be imported, asked before anything is begun."""

import importlib

from fcn_deploy.core.errors import MissingExtraError


def missing_extra(
    what: str, extra: str, *modules: str, otherwise: str | None = None
) -> MissingExtraError | None:
    """Return the error that names the first module which cannot be imported, or None.

    Args:
        what: cannot be done without them; see :class:`MissingExtraError`, like what follows.
        extra: brings them.
        modules: are imported, in this order.
        otherwise: what is possible without them.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            return MissingExtraError(what, extra, error, otherwise)
        except Exception:  # it is there, and whoever uses it is told what ails it
            continue
    return None


def require_extra(what: str, extra: str, *modules: str, otherwise: str | None = None) -> None:
    """Import the modules of an extra.

    Raises:
        MissingExtraError: one of them cannot be imported; the arguments are those of
            :func:`missing_extra`.
    """
    error = missing_extra(what, extra, *modules, otherwise=otherwise)
    if error is not None:
        raise error
