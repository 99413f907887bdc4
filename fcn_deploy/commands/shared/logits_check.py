"""Whether the logits behind a mask are finite, which the mask itself does not show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import FcnDeployError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from fcn_deploy.results.runner import RunnerDescription
    from fcn_deploy.runners.base import Runner


def logits_check(
    source: Run,
    description: RunnerDescription,
    stack: ExitStack,
    *,
    precision: Precision,
    threads: int | None,
    device: str,
) -> Callable[[NDArray[uint8]], bool]:
    """Return what says whether a picture's logits are finite.

    Masks do not show it, so the picture is run again, with logits.  What `export` has checked in
    float32 is not asked again, nor what has no logits: an engine that was built without them.

    Args:
        source: the run.
        description: of the runner that gives the masks.
        stack: closes the second runner, which is opened for the first picture that is asked about.
        precision: as typed.
        threads: as typed.
        device: as typed.
    """
    import numpy as np

    from fcn_deploy.results.proven import file_precision
    from fcn_deploy.runners.base import find_backend, open_runner

    backend = find_backend(description.backend)
    exported = not backend.name.startswith("torch")
    if (exported and description.precision != "fp16") or backend.build_missing is not None:
        return lambda image: True

    @cache
    def with_logits() -> Runner:
        return stack.enter_context(
            open_runner(
                source,
                backend.name if exported else "torch",  # eager: nothing is compiled for this
                precision=file_precision(description) if exported else precision,
                outputs=("mask", "logits"),
                threads=threads,
                device=backend.device_of(device),
            )
        )

    def has_finite_logits(image: NDArray[uint8]) -> bool:
        try:
            logits = with_logits().run(image[None]).logits
        except FcnDeployError:  # they take more memory than the mask did: then nothing is known
            return True
        assert logits is not None  # asked for
        return bool(np.isfinite(logits).all())

    return has_finite_logits
