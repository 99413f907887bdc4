"""Names of architectures: what each says, and what is said of one that is none."""

from collections.abc import Callable

import pytest

from fcn_deploy.core.errors import ArchitectureError
from fcn_deploy.networks.architectures import (
    architecture_names,
    build_model,
    find_architecture,
    with_output_stride,
)

OneLine = Callable[[Exception], str]


def test_an_unknown_architecture_says_how_names_are_made(one_line: OneLine) -> None:
    for name in ("fcn32s-vgg16", "fcn4s-resnet18", "fcn8s-resnet18-os4", "tv-fcn-resnet18", ""):
        for ask in (find_architecture, lambda name: build_model(name, 5)):
            with pytest.raises(ArchitectureError) as caught:
                ask(name)
            text = one_line(caught.value)
            assert repr(name) in text
            for word in (
                "fcn8s",
                "fpn",
                "resnet101",
                "-os16",
                "tv-fcn-resnet50",
                "fcn32s-resnet18",
            ):
                assert word in text
            assert len(text) < 350


def test_every_name_says_what_its_row_says() -> None:
    names = architecture_names()
    assert len(names) == len(set(names)) == 3 * 5 * 3 + 3 * 5 + (5 + 5) + 2
    for name in names:
        row = find_architecture(name)
        assert row.name == name
        assert name.startswith(f"{row.family}-{row.backbone}")
    assert {"fcn8s-resnet34-os16", "fcn32s-resnet18", "tv-fcn-resnet101"} <= set(names)


def test_a_name_with_another_output_stride(one_line: OneLine) -> None:
    assert with_output_stride("fcn8s-resnet18", 16) == "fcn8s-resnet18-os16"
    assert with_output_stride("fcn8s-resnet18-os16", 8) == "fcn8s-resnet18-os8"
    assert with_output_stride("fcn8s-resnet18-os16", 32) == "fcn8s-resnet18"
    stubborn = (
        ("tv-fcn-resnet50", 16), ("fpn-resnet18", 16), ("fcn8s-resnet18", 4), ("fcn9s", 8),
    )  # fmt: skip
    for name, stride in stubborn:
        with pytest.raises(ArchitectureError) as caught:
            with_output_stride(name, stride)
        one_line(caught.value)
