"""What other tests rely on: only the same network is not traced again."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from tests.traces import kept

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Other(nn.Conv2d):
    """Differs in nothing but its class."""


def network(
    weight: float = 0.0, convolution: type[nn.Conv2d] = nn.Conv2d, **attributes: Any
) -> nn.Module:
    made = convolution(3, 2, 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.fill_(weight)
    for name, value in attributes.items():
        setattr(made, name, value)
    return nn.Sequential(made)


@pytest.mark.parametrize(
    ("other", "how", "traces"),
    [
        (network(), (EXAMPLE, "image", 20), 1),
        (network(1.0), (EXAMPLE, "image", 20), 2),
        (network(start=8), (EXAMPLE, "image", 20), 2),
        (network().half(), (EXAMPLE, "image", 20), 2),
        (network(convolution=Other), (EXAMPLE, "image", 20), 2),
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
