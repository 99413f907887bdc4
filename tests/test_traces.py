"""What other tests rely on: only the same network is not traced again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from tests.traces import kept

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Named(nn.Conv2d):
    """Prints as what it is derived from."""

    def _get_name(self) -> str:
        return "Conv2d"


def network(bias: float = 0.0, **attributes: Any) -> nn.Module:
    convolution = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.fill_(bias)
    for name, value in attributes.items():
        setattr(convolution, name, value)
    return convolution


def renamed() -> nn.Module:
    made = Named(3, 2, 1)
    made.load_state_dict(network().state_dict())
    return made


@pytest.mark.parametrize(
    ("other", "how", "traces"),
    [
        (network(), (EXAMPLE, "image", 20), 1),
        (network(1.0), (EXAMPLE, "image", 20), 2),
        (network(outputs=("mask",)), (EXAMPLE, "image", 20), 2),
        (network().half(), (EXAMPLE, "image", 20), 2),
        (renamed(), (EXAMPLE, "image", 20), 2),
        (network(), (EXAMPLE, "image", 18), 2),
        (network(), (EXAMPLE[:, :, :4], "image", 20), 2),
    ],
    ids=["same", "weights", "attribute", "dtype", "class", "opset", "example"],
)
def test_only_the_same_network_is_not_traced_again(
    tmp_path: Path, other: nn.Module, how: tuple[Any, ...], traces: int
) -> None:
    seen: list[nn.Module] = []

    def trace(model: nn.Module, *_: Any) -> onnx.ModelProto:
        seen.append(model)
        return onnx.ModelProto(producer_name=str(len(seen)))

    first = kept(trace, tmp_path)(network(), EXAMPLE, "image", 20)
    second = kept(trace, tmp_path)(other, *how)  # as another worker would
    assert len(seen) == traces
    assert (first == second) == (traces == 1)
