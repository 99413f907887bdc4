"""What is installed: the lists of versions, and what the runtime leaves to the extras."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fcn_deploy import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE, EXTRAS = PROJECT["dependencies"], PROJECT["optional-dependencies"]
#: The extras that `make lock` resolves beside the runtime.
LOCKED = ("dev", "rtx", "train")
TORCH = {"torch", "torchvision", "safetensors", "onnxscript"}


def flattened(lines: list[str]) -> Iterator[Requirement]:
    """The requirements of these lines, with those of our own extras in place of their names."""
    for line in lines:
        requirement = Requirement(line)
        if requirement.name == "fcn-deploy":
            for extra in requirement.extras:
                yield from flattened(EXTRAS[extra])
        else:
            yield requirement


def pinned(file: str) -> dict[str, set[str]]:
    """Distribution → its versions in a list, one for each range of Pythons."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            (version,) = requirement.specifier
            assert version.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), set()).add(version.version)
    return found


def names(lines: list[str]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in flattened(lines)}


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    held = pinned("requirements.lock")
    asked = BASE + [line for extra in LOCKED for line in EXTRAS[extra]]
    for requirement in flattened(asked):
        versions = held.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not in requirements.lock: run `make lock`"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), requirement


def test_make_lock_resolves_the_same_extras() -> None:
    (line,) = re.findall(r"^\t.*--output-file requirements\.lock$",
                         (ROOT / "Makefile").read_text(), re.MULTILINE)  # fmt: skip
    assert tuple(re.findall(r"--extra (\S+)", line)) == LOCKED


def test_the_list_for_cpus_is_the_runtime_with_the_small_onnxruntime() -> None:
    held, lock = pinned("requirements-cpu.txt"), pinned("requirements.lock")
    assert names(BASE) - {"onnxruntime-gpu"} <= set(held)
    assert "onnxruntime-gpu" not in held
    assert not TORCH & set(held)
    for name, versions in held.items():
        assert versions == lock[name], name


def test_the_runtime_has_no_torch_and_train_has_it_all() -> None:
    assert not TORCH & names(BASE)
    assert names(EXTRAS["train"]) == TORCH


def test_exactly_one_onnxruntime_is_asked_for_everywhere() -> None:
    runtimes = [r for r in flattened(BASE) if r.name.startswith("onnxruntime")]
    for system in ("linux", "win32", "darwin"):
        for machine in ("x86_64", "AMD64", "aarch64", "arm64"):
            here = {"sys_platform": system, "platform_machine": machine}
            taken = [r.name for r in runtimes if r.marker is None or r.marker.evaluate(here)]
            assert len(taken) == 1, (system, machine, taken)


def test_all_is_every_extra_that_needs_no_gpu() -> None:
    (line,) = EXTRAS["all"]
    assert Requirement(line).extras == set(EXTRAS) - {"all", "dev", "trt", "rtx"}


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_the_page_of_installing_names_every_extra(extra: str) -> None:
    page = (ROOT / "docs" / "install-on-a-device.md").read_text(encoding="utf-8")
    assert f"`{extra}`" in page
