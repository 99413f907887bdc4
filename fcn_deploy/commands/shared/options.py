"""What the words of a command line may be: parameter types and the options that are shared."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from click.core import ParameterSource

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.spec import Precision, ShapeProfile

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    ParamType = click.ParamType[Any]
else:  # not every click 8 can be subscripted
    ParamType = click.ParamType


class PathType(ParamType):
    """A path, with ``~`` for the home directory; shells complete it.

    Args:
        folder: whether only folders are offered for completion.
    """

    name = "path"

    def __init__(self, *, folder: bool = False) -> None:
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        return Path(_home_expanded(str(value)))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell offer the files or folders that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir" if self.folder else "file")]


class PathText(PathType):
    """One of some words, or a path, as text.

    Args:
        words: that may stand in place of a path.
        folder: whether only folders are offered for completion.
    """

    def __init__(self, *words: str, folder: bool = False) -> None:
        super().__init__(folder=folder)
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word or the path."""
        return _home_expanded(str(value))

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the words that begin so; the shell adds paths."""
        from click.shell_completion import CompletionItem

        # Bash shows paths only where no word fits, so with nothing typed yet it gets paths alone;
        # and it forgets the words that stand before the item of the paths.
        fitting = [word for word in self.words if incomplete and word.startswith(incomplete)]
        paths = super().shell_complete(ctx, param, incomplete)
        return [*paths, *(CompletionItem(word) for word in fitting)]


def _home_expanded(path: str) -> str:
    # A shell expands the `~` of `--out ~/masks`, but not that of `--out=~/masks`.
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:  # `~name` of nobody: then it is a name like any other
        return path


class BackendName(ParamType):
    """The name of a backend; whether it runs here is asked when it is opened."""

    name = "backend"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name."""
        return value

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names of the backends that this version knows."""
        from click.shell_completion import CompletionItem

        from fcn_deploy.runners.base import BACKENDS

        names = (*self.words, *BACKENDS)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Size(ParamType):
    """HEIGHTxWIDTH in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (height, width)."""
        if isinstance(value, tuple):
            return value
        height, _, width = str(value).lower().replace("×", "x").partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            self.fail(f"{value!r} is no size; write HEIGHTxWIDTH, e.g. 320x480", param, ctx)
        return int(height), int(width)


class Share(ParamType):
    """A share between 0 and 1, e.g. 0.2."""

    name = "SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the share."""
        share = share_of(str(value))
        if share is None:
            self.fail(f"{value!r} is no share; write a number between 0 and 1: 0.2", param, ctx)
        return share


def share_of(text: str) -> float | None:
    """Return the share that a word names, or None where it names none."""
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0 < share < 1 else None


#: For commands that take the lists of a folder, and have no list to choose.
held_out_option = click.option(
    "--split", "held_out", type=Share(), metavar="SHARE",
    help="Keep this share of the images for validation, by a hash of their names, where the "
    "folder of --data has no val/; 0.2 unless given.",
)  # fmt: skip


class Names(ParamType):
    """A comma-separated list of known names."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self.name = ",".join(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the names as a tuple."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(",") if name.strip())
        for name in names:
            if name not in self.known:
                self.fail(f"unknown {name!r}; choose of {', '.join(self.known)}", param, ctx)
        return names


class Profile(ParamType):
    """MIN:OPT:MAX, each NxHxW: the batch shapes that an engine takes."""

    name = "MIN:OPT:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the profile."""
        return value if isinstance(value, ShapeProfile) else ShapeProfile.from_text(str(value))


class Counts(ParamType):
    """A comma-separated list of whole numbers from 1."""

    name = "N,N…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isdecimal() and int(word) for word in words):
            self.fail(f"{value!r} is no list of whole numbers from 1, e.g. 1,8", param, ctx)
        return tuple(int(word) for word in words)


class Percentage(ParamType):
    """A percentage, 10% or 10, as a share."""

    name = "N%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the share, 0.1 for 10%."""
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            self.fail(f"{value!r} is no percentage; write e.g. 10%", param, ctx)
        return share


class Channels(ParamType):
    """Three comma-separated numbers, one for each channel of a picture."""

    name = "N,N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers as a tuple."""
        if isinstance(value, tuple):
            return value
        try:
            one, two, three = (float(word) for word in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no three numbers; write e.g. 0.485,0.456,0.406", param, ctx)
        return one, two, three


class Fraction(ParamType):
    """A number, as a decimal or as a fraction."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        if isinstance(value, float):
            return value
        above, _, below = str(value).partition("/")
        try:
            return float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is no number; write e.g. 1/255", param, ctx)


class Bytes(ParamType):
    """A size of memory, such as ``512MiB`` or ``4GiB``."""

    name = "SIZE"
    _UNITS: ClassVar = {"kib": 10, "mib": 20, "gib": 30}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number of bytes."""
        if isinstance(value, int):
            return value
        word = str(value).strip().lower()
        number, power = word[:-3].strip(), self._UNITS.get(word[-3:])
        if power is None or not number.isdecimal() or not int(number):
            self.fail(f"{value!r} is no size of memory; write e.g. 512MiB", param, ctx)
        return int(number) << power


def typed_words(but: Collection[str] = ()) -> dict[str, list[str]]:
    """Return what was typed of the running command, as a result file holds it.

    Args:
        but: names of options that are left out.

    Returns:
        ``arguments``: the words that are no options; ``options``: see :func:`typed_options`.
    """
    context = click.get_current_context()
    arguments: list[str] = []
    for param in context.command.params:
        if isinstance(param, click.Argument):
            value = context.params[param.name or ""]
            words = value if isinstance(value, tuple) else (value,)
            arguments += [str(word) for word in words if word is not None]
    return {"arguments": arguments, "options": typed_options(but)}


def typed_names() -> frozenset[str]:
    """Return the names of the running command's parameters that were typed."""
    context = click.get_current_context()
    return frozenset(
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    )


def typed_options(but: Collection[str] = ()) -> list[str]:
    """Return the options of the running command that were typed, as words of a command line.

    Args:
        but: names of parameters that are left out.
    """
    context, typed = click.get_current_context(), typed_names()
    words: list[str] = []
    for param in context.command.params:
        if not isinstance(param, click.Option) or param.name in but or param.name not in typed:
            continue
        value = context.params[param.name]
        for one in value if param.multiple else [value]:
            words += _option_words(param, one)
    return words


def _option_words(option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [(option.opts if value else option.secondary_opts)[0]]
    if isinstance(option.type, Size):
        height, width = value
        return [option.opts[0], f"{height}x{width}"]
    if isinstance(option.type, Counts):
        return [option.opts[0], ",".join(map(str, value))]
    return [option.opts[0], str(value)]


run_argument = click.argument("run", required=False, type=PathText(), metavar="[RUN]")


def precision_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--fp16`` and ``--int8``; the command is given a ``precision``."""

    @functools.wraps(command)
    def with_precision(*arguments: Any, fp16: bool, int8: bool, **options: Any) -> None:
        if fp16 and int8:
            raise InputError("--fp16 and --int8 choose one network each", "give one of them")
        precision = Precision.FP16 if fp16 else Precision.INT8 if int8 else Precision.FP32
        command(*arguments, precision=precision, **options)

    for name, words in (("int8", "8-bit integers"), ("fp16", "half precision")):
        with_precision = click.option(
            f"--{name}", is_flag=True,
            help=f"Use {words} in place of float32: the network of model.{name}.onnx.",
        )(with_precision)  # fmt: skip
    return with_precision


def few_threads(context: click.Context, param: click.Parameter, value: int | None) -> int | None:
    """Refuse numbers of threads or processes that a machine spends minutes on."""
    cores = os.cpu_count() or 1
    most = max(16, 4 * cores)
    if value is not None and value > most:
        raise InputError(
            f"{param.opts[0]} {value} is too many for {cores} CPU cores",
            f"drop it, or give at most {most}",
        )
    return value


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=few_threads,
    help="Compute with so many CPU threads; by default with one for each usable core.",
)
device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto",
    help="Let PyTorch compute there; by default on the GPU if there is one.",
)  # fmt: skip
