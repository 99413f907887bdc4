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


class TextType(ParamType):
    """A parameter that :meth:`read` makes of the word that was typed; defaults may be made already.

    A word that is refused by ``self.fail(message)`` is named with its option by click.
    """

    def read(self, word: str) -> Any:
        """Return the value that a word stands for."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        return self.read(value) if isinstance(value, str) else value


class PathType(TextType):
    """A path, with ``~`` for the home directory; shells complete it.

    Args:
        folder: whether only folders are offered for completion.
    """

    name = "path"

    def __init__(self, *, folder: bool = False) -> None:
        self.folder = folder

    def read(self, word: str) -> Path | str:
        """Return the path."""
        return Path(_home_expanded(word))

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

    def read(self, word: str) -> str:
        """Return the word or the path."""
        return _home_expanded(word)

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

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Offer the names of the backends that this version knows."""
        from click.shell_completion import CompletionItem

        from fcn_deploy.runners.base import BACKENDS

        names = (*self.words, *BACKENDS)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Size(TextType):
    """HEIGHTxWIDTH in pixels."""

    name = "HxW"

    def read(self, word: str) -> tuple[int, int]:
        """Return (height, width)."""
        height, _, width = word.lower().replace("×", "x").partition("x")
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            self.fail(f"{word!r} is no size; write HEIGHTxWIDTH, e.g. 320x480")
        return int(height), int(width)


class Share(TextType):
    """A share between 0 and 1, e.g. 0.2."""

    name = "SHARE"

    def read(self, word: str) -> float:
        """Return the share."""
        share = share_of(word)
        if share is None:
            self.fail(f"{word!r} is no share; write a number between 0 and 1: 0.2")
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


class Names(TextType):
    """A comma-separated list of known names."""

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)
        self.name = ",".join(known)

    def read(self, word: str) -> tuple[str, ...]:
        """Return the names."""
        names = tuple(name.strip() for name in word.split(",") if name.strip())
        for name in names:
            if name not in self.known:
                self.fail(f"unknown {name!r}; choose of {', '.join(self.known)}")
        return names


class Profile(TextType):
    """MIN:OPT:MAX, each NxHxW: the batch shapes that an engine takes."""

    name = "MIN:OPT:MAX"

    def read(self, word: str) -> ShapeProfile:
        """Return the profile."""
        return ShapeProfile.from_text(word)


class Counts(TextType):
    """A comma-separated list of whole numbers from 1."""

    name = "N,N…"

    def read(self, word: str) -> tuple[int, ...]:
        """Return the numbers."""
        counts = [count.strip() for count in word.split(",")]
        if not all(count.isdecimal() and int(count) for count in counts):
            self.fail(f"{word!r} is no list of whole numbers from 1, e.g. 1,8")
        return tuple(map(int, counts))


class Percentage(TextType):
    """A percentage, 10% or 10, as a share."""

    name = "N%"

    def read(self, word: str) -> float:
        """Return the share, 0.1 for 10%."""
        try:
            share = float(word.strip().removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share < float("inf"):
            self.fail(f"{word!r} is no percentage; write e.g. 10%")
        return share


class Channels(TextType):
    """Three comma-separated numbers, one for each channel of a picture."""

    name = "N,N,N"

    def read(self, word: str) -> tuple[float, float, float]:
        """Return the numbers."""
        try:
            one, two, three = map(float, word.split(","))
        except ValueError:
            self.fail(f"{word!r} is no three numbers; write e.g. 0.485,0.456,0.406")
        return one, two, three


class Fraction(TextType):
    """A number, as a decimal or as a fraction."""

    name = "N"

    def read(self, word: str) -> float:
        """Return the number."""
        above, _, below = word.partition("/")
        try:
            return float(above) / float(below or 1)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{word!r} is no number; write e.g. 1/255")


class Bytes(TextType):
    """A size of memory, such as ``512MiB`` or ``4GiB``."""

    name = "SIZE"
    _UNITS: ClassVar = {"kib": 10, "mib": 20, "gib": 30}

    def read(self, word: str) -> int:
        """Return the number of bytes."""
        size = word.strip().lower()
        number, power = size[:-3].strip(), self._UNITS.get(size[-3:])
        if power is None or not number.isdecimal() or not int(number):
            self.fail(f"{word!r} is no size of memory; write e.g. 512MiB")
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
