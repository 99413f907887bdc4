"""Whether code that a file names may be imported: only where the user has said so.

A checkpoint of a network from Python names a module and a factory in it, and importing a module
runs it.  So a run from elsewhere is as good as a program from elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

#: Set to 1, it says `--trust-code` for every command; processes that a command starts inherit it.
TRUST_CODE = "FCN_DEPLOY_TRUST_CODE"


def code_is_trusted() -> bool:
    """Say whether the code that a checkpoint names may be imported."""
    return os.environ.get(TRUST_CODE) == "1"


@contextmanager
def trusting_code() -> Iterator[None]:
    """Let checkpoints' code be imported, here and in processes that are started meanwhile."""
    before = os.environ.get(TRUST_CODE)
    os.environ[TRUST_CODE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(TRUST_CODE, None)
        else:
            os.environ[TRUST_CODE] = before
