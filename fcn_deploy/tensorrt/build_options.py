"""BuildOptions: what may be chosen of a build, and how it is typed after `fcn-deploy build`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fcn_deploy.core.errors import ArtifactError, InputError
from fcn_deploy.core.files import probe
from fcn_deploy.core.spec import Product, ShapeProfile
from fcn_deploy.tensorrt.portability import PORTABLE_FLAG, Portability

CACHE_FLAG = "--timing-cache"
#: Endings of the files that lie where an engine is built.
_OTHER_FILES = (".onnx", ".plan", ".engine", ".json", ".safetensors", ".pt", ".pth", ".txt")


@dataclass(frozen=True)
class BuildOptions:
    """What the user may choose of a build.

    Attributes:
        profiles: batch shapes to take; empty: one that the training images' sizes suggest.
        workspace_mib: device memory that a layer's tactic may use; None: TensorRT's choice.
        optimization_level: 0 (quick build) to 5 (quick engine); None: TensorRT's choice.
        timing_cache: file that carries timings from one build to the next; None: the one in the
            engines' folder, see :func:`default_timing_cache`.
        compute_capabilities: GPUs to build for, e.g. ``("sm89",)``; empty: this machine's, or
            all that TensorRT for RTX takes by default.
        portable: what the engine must fit beyond this release and this kind of GPU, or None.
    """

    profiles: tuple[ShapeProfile, ...] = ()
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    compute_capabilities: tuple[str, ...] = ()
    portable: Portability | None = None

    def cli_options(self) -> str:
        """Return the options as typed after `fcn-deploy build`."""
        words = [f"--profile {profile}" for profile in self.profiles]
        if self.workspace_mib is not None:
            words.append(f"--workspace {self.workspace_mib}")
        if self.optimization_level is not None:
            words.append(f"--opt-level {self.optimization_level}")
        if self.timing_cache is not None:
            words.append(f"--timing-cache {shlex.quote(str(self.timing_cache))}")
        if self.compute_capabilities:
            words.append(f"--compute-capability {','.join(self.compute_capabilities)}")
        if self.portable is not None:
            words.append(f"{PORTABLE_FLAG} {self.portable.value}")
        return "".join(f" {word}" for word in words)


def default_timing_cache(
    folder: Path, product: Product, version: str, capabilities: Iterable[str]
) -> Path:
    """Return the timing cache of a folder of engines: one for each release and kind of GPU.

    The engine of the masks and the one that shows the logits share nearly all their layers, so
    the second of any two builds in a folder measures little.
    """
    return folder / f"timing.{product.value}-{version}.{'-'.join(capabilities)}.cache"


def timing_cache_problem(path: Path) -> str | None:
    """Return why a timing cache cannot be read and written anew, or None."""
    try:
        probe(path, flags=CACHE_FLAG)
        if path.is_file():
            with path.open("rb") as stream:
                stream.read(1)
    except ArtifactError as error:
        return error.message
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    return None


def refuse_other_file(path: Path | None) -> None:
    """Refuse a timing cache that has the name of a file of another kind: it would be replaced.

    Raises:
        InputError: it has such a name.
    """
    if path is not None and path.suffix.lower() in _OTHER_FILES:
        raise InputError(
            f"{path} is no timing cache by its name, and would be replaced by one",
            f"name another file, e.g. {CACHE_FLAG} {path.with_suffix('.cache')}",
        )


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Read ``sm89,sm120``: sorted by number, each once, so that no two names mean the same build.

    Raises:
        InputError: a word is no compute capability, or there is none.
    """
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if not re.fullmatch(r"sm[0-9]{2,4}", word):
            raise InputError(
                f"--compute-capability: {word!r} is no compute capability",
                "write e.g. --compute-capability sm89,sm120",
            )
    return sorted_capabilities(words)


def sorted_capabilities(names: Iterable[str]) -> tuple[str, ...]:
    """Return compute capabilities once each, the lowest first."""
    return tuple(sorted(set(names), key=lambda name: (len(name), name)))
