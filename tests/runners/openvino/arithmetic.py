"""Which arithmetic this CPU has, and how exact three products are."""

import pytest

from fcn_deploy.core.spec import Precision
from fcn_deploy.runners.base import unavailable_reason

#: Of the largest |logit|; 1.02e-4 was seen with these untrained weights, the gate allows 1e-3.
THREE_PRODUCTS_ERROR = 3e-4


def require(backend: str, precision: Precision = Precision.FP32) -> None:
    """Skip where this CPU or OpenVINO lacks the arithmetic."""
    if backend == "openvino-int8x3":
        reason = unavailable_reason(backend)
        if reason is not None:
            pytest.skip(reason)
        return
    import openvino

    names = {"openvino-bf16": "BF16", "openvino": "FP16" if precision is Precision.FP16 else "FP32"}
    if names[backend] not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"this CPU has no {names[backend]}")
