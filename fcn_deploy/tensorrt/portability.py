"""Engines that fit more than the machine they were built on: what is set, and what they fit then.

By NVIDIA's documents ("Version Compatibility" and "Hardware Compatibility" of the TensorRT
developer guide) a version-compatible plan carries a small runtime of its own release and runs on
later releases; a plan of hardware compatibility level "Ampere and later" runs on each compute
capability from 8.0.  TensorRT for RTX has neither: there compute capabilities are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from fcn_deploy.core.errors import InputError
from fcn_deploy.tensorrt.api import TensorRt

PORTABLE_FLAG = "--portable"
#: The lowest compute capability of Ampere, as in ``sm80``.
_AMPERE = 80
#: The GPUs of Jetson and DRIVE: Nano, TX2, Xavier, Orin, Thor (in CUDA 12, then in 13).  By the
#: guide, JetPack and DRIVE OS run no engine of that level.
_JETSON = ("sm53", "sm62", "sm72", "sm87", "sm101", "sm110")
#: Major release → the later ones that run its version-compatible plans: of 8 and 9 said in the
#: guide of 10.16, of 10 in that of 11.1.
_LATER_MAJORS = {8: (9, 10), 9: (10,), 10: (11,)}


class Portability(str, Enum):
    """What an engine is built to fit beyond its own release and its own kind of GPU."""

    VERSION = "version"
    AMPERE = "ampere+"


def portability_of(flags: Mapping[str, Any]) -> Portability | None:
    """Return what an engine was built to fit, by the builder settings of its sidecar.

    A word that this version does not know promises nothing: the engine then fits what it was
    built on, and no more.
    """
    found = flags.get("portable")
    return next((word for word in Portability if word.value == found), None)


def require_portable(
    tensorrt: TensorRt, portable: Portability | None, capabilities: Sequence[str]
) -> None:
    """Refuse what this release or this GPU does not build.

    Args:
        tensorrt: that is to build.
        portable: what was asked for.
        capabilities: of the GPUs that the engine is built for.

    Raises:
        InputError: naming what to drop.
    """
    if portable is None:
        return
    if tensorrt.chooses_capabilities:
        raise InputError(
            f"{tensorrt.label} builds for the compute capabilities that are named to it",
            f"drop {PORTABLE_FLAG}, and choose them with --compute-capability",
        )
    known = (
        tensorrt.builds_version_compatible
        if portable is Portability.VERSION
        else tensorrt.builds_ampere_plus
    )
    if not known:
        raise InputError(
            f"{tensorrt.label} builds no engine that is portable by {portable.value}",
            f"drop {PORTABLE_FLAG}",
        )
    jetsons = [name for name in capabilities if name in _JETSON]
    if portable is Portability.AMPERE and jetsons:
        raise InputError(
            f"{jetsons[0]} is the GPU of a Jetson, which runs no engine for Ampere and later GPUs",
            f"drop {PORTABLE_FLAG} {portable.value}",
        )
    older = [name for name in capabilities if _number(name) < _AMPERE]
    if portable is Portability.AMPERE and older:
        raise InputError(
            f"an engine for Ampere and later GPUs is built on one of them, not on {older[0]}",
            f"drop {PORTABLE_FLAG} {portable.value}",
        )


def configure_portable(
    tensorrt: TensorRt, config: Any, portable: Portability | None
) -> tuple[str, ...]:
    """Tell the builder what the engine must fit; return the flags changed."""
    if portable is Portability.VERSION:
        return (tensorrt.set_version_compatible(config),)
    if portable is Portability.AMPERE:
        return (tensorrt.set_ampere_plus(config),)
    return ()


def fits_release(portable: Portability | None, built: str, installed: str) -> bool:
    """Say whether an engine that one release built runs on another of the same product."""
    if built == installed or portable is not Portability.VERSION:
        return built == installed
    old, new = version_numbers(built), version_numbers(installed)
    if not old or not new:  # no release that could be told to be later
        return False
    later_majors = (old[0], *_LATER_MAJORS.get(old[0], ()))
    return old <= new and new[0] in later_majors


def fits_gpu(portable: Portability | None, built_for: Sequence[str], capability: str) -> bool:
    """Say whether an engine built for some compute capabilities runs on another one."""
    if capability in built_for:
        return True
    ampere = _number(capability) >= _AMPERE and capability not in _JETSON
    return portable is Portability.AMPERE and ampere


def release_in_name(version: str, portable: Portability | None) -> str:
    """Return the release as an engine's file name holds it, ``10.16.1.11+`` for it and later."""
    return f"{version}+" if portable is Portability.VERSION else version


def capabilities_in_name(
    capabilities: Sequence[str], portable: Portability | None
) -> tuple[str, ...]:
    """Return what an engine's file name holds of the GPUs that it fits."""
    return (portable.value,) if portable is Portability.AMPERE else tuple(capabilities)


def _number(capability: str) -> int:
    digits = capability.removeprefix("sm")
    return int(digits) if digits.isdecimal() else 0


def version_numbers(version: str) -> list[int]:
    """Return the numbers of a version, to be compared."""
    return [int(word) for word in version.split(".") if word.isdecimal()]
