"""A server without a network: the mask is the picture's first channel.

python -m tests.serve.fake_server SECONDS_A_BATCH SETTINGS_IN_JSON
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from numpy.typing import NDArray

from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve.logs import configure_logs
from fcn_deploy.serve.server import listen, serve
from fcn_deploy.serve.service import Service
from fcn_deploy.serve.settings import Settings
from tests.fakes import FakeRunner


class FirstChannel(FakeRunner):
    """A runner that does next to nothing."""

    def _infer(self, images: NDArray[np.uint8]) -> Outputs:
        if self._seconds:
            time.sleep(self._seconds)
        return Outputs(np.ascontiguousarray(images[..., 0]))


def main() -> None:
    """Serve until a signal comes."""
    settings = Settings(**json.loads(sys.argv[2]))
    configure_logs()
    with listen(settings.host, settings.port) as bound:
        serve(Service(FirstChannel(seconds=float(sys.argv[1])), settings), bound)


if __name__ == "__main__":
    main()
