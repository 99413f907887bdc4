"""The names of each release of TensorRT, and classes that have these names and no others."""

import json
from functools import cache
from pathlib import Path
from typing import Any

API_FOLDER = Path(__file__).parents[1] / "fixtures" / "trt-api"
RELEASES = ("8.6.0", "10.16.1", "11.4.0", "rtx-1.7.1")


@cache
def api(release: str) -> dict[str, list[str]]:
    """Names of each class of a release: those of all releases that have it, and its own."""
    common: dict[str, str] = json.loads((API_FOLDER / "common.json").read_text())
    content: dict[str, Any] = json.loads((API_FOLDER / f"{release}.json").read_text())
    return {
        name: sorted(f"{names} {common.get(name, '')}".split())
        for name, names in content["classes"].items()
    }


def version_of(release: str) -> str:
    """The full version of a release."""
    return str(json.loads((API_FOLDER / f"{release}.json").read_text())["version"])


class Member(int):
    """A member of an enumeration."""

    name: str


def _enumeration(name: str, members: list[str]) -> type:
    made = {}
    for value, member in enumerate(members):
        made[member] = Member(value)
        made[member].name = member
    return type(name, (), made)


def _restricted(behaviour: type, name: str, allowed: list[str]) -> type:
    """A class whose instances have the names of the release and no others."""

    def check(attribute: str) -> None:
        if not attribute.startswith("_") and attribute not in allowed:
            raise AttributeError(f"{name} of this release has no {attribute}")

    def read(self: Any, attribute: str) -> Any:
        check(attribute)
        return object.__getattribute__(self, attribute)

    def write(self: Any, attribute: str, value: Any) -> None:
        check(attribute)
        object.__setattr__(self, attribute, value)

    return type(name, (behaviour,), {"__getattribute__": read, "__setattr__": write})
