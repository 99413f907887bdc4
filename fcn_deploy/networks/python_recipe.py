"""PythonRecipe: how a network from somebody's Python code is built, as a name and back.

    python:segmentation_models_pytorch:Unet?encoder_name=resnet18&multiple-of=32

The name is what stands in a checkpoint as its architecture.  It is read without importing anything.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from fcn_deploy.core.errors import ArchitectureError, MissingExtraError

PREFIX = "python:"
#: What a library calls the number of classes.
CLASS_COUNTS = ("num_classes", "classes", "num_labels", "n_classes")
#: What a library calls the weights that it fetches: a checkpoint of ours holds its own.
_FETCHED = ("encoder_weights", "weights_backbone", "weights", "pretrained_backbone", "pretrained")
#: No name of an argument of Python's, so it can stand among them.
_MULTIPLE = "multiple-of"
#: Pictures are padded to multiples of this at most.
LARGEST_MULTIPLE = 1024
_WORDS = {"none": None, "null": None, "true": True, "false": False}
#: Libraries that the extra ``networks`` brings.
_OF_OUR_EXTRA = ("segmentation_models_pytorch", "transformers")
_FORM = "write python:package.module:factory"
_ARG_FORM = "write --arg name=value"
#: Letters of a foreign error that one line of ours repeats.
_SPOKEN = 200


@dataclass(frozen=True)
class PythonRecipe:
    """How to build a network: which factory, called how.

    Attributes:
        module: e.g. ``segmentation_models_pytorch``.
        factory: what to call in it, e.g. ``Unet``; dots lead further in.
        arguments: names and values, as they were typed.
        multiple_of: height and width are padded to multiples of this.
    """

    module: str
    factory: str
    arguments: tuple[tuple[str, str], ...] = ()
    multiple_of: int = 1

    @classmethod
    def from_name(cls, name: str) -> PythonRecipe:
        """Read what :attr:`name` gives, or what a user types without arguments.

        Raises:
            ArchitectureError: it is no such name.
        """
        path, _, query = name.removeprefix(PREFIX).partition("?")
        module, _, factory = path.partition(":")
        words = (*module.split("."), *factory.split("."))
        if not name.startswith(PREFIX) or not all(word.isidentifier() for word in words):
            raise ArchitectureError(f"{name!r} names no factory of a network", _FORM)
        pairs = parse_qsl(query, keep_blank_values=True)
        multiples = [value for key, value in pairs if key == _MULTIPLE]
        arguments = tuple((key, value) for key, value in pairs if key != _MULTIPLE)
        multiple = multiples[0] if multiples else "1"
        if not (multiple.isdecimal() and 1 <= int(multiple) <= LARGEST_MULTIPLE):
            raise ArchitectureError(
                f"{name!r} pads pictures to multiples of {multiple}",
                f"give --multiple-of a number from 1 to {LARGEST_MULTIPLE}",
            )
        recipe = cls(module, factory, arguments, int(multiple))
        recipe._require_names()
        return recipe

    def with_options(self, words: Sequence[str], multiple_of: int | None) -> PythonRecipe:
        """Return the recipe with what else was typed: ``name=value`` words, a multiple.

        Raises:
            ArchitectureError: a word is of another form, or an argument is given twice.
        """
        pairs = tuple((name, value) for name, _, value in (word.partition("=") for word in words))
        wrong = next((word for word in words if "=" not in word), None)
        if wrong is not None:
            raise ArchitectureError(f"--arg {wrong} gives no value", _ARG_FORM)
        recipe = replace(
            self,
            arguments=self.arguments + pairs,
            multiple_of=self.multiple_of if multiple_of is None else multiple_of,
        )
        recipe._require_names()
        return recipe

    def _require_names(self) -> None:
        names = [name for name, _ in self.arguments]
        for name in names:
            if not name.isidentifier():
                raise ArchitectureError(f"{name!r} is no name of an argument", _ARG_FORM)
            if names.count(name) > 1:
                raise ArchitectureError(f"the argument {name} is given twice", "give it once")

    @property
    def callee(self) -> str:
        """The factory, e.g. ``python:segmentation_models_pytorch:Unet``."""
        return f"{PREFIX}{self.module}:{self.factory}"

    @property
    def name(self) -> str:
        """The recipe as one word, which :meth:`from_name` reads."""
        pairs = [f"{name}={quote_plus(value)}" for name, value in self.arguments]
        if self.multiple_of > 1:
            pairs.append(f"{_MULTIPLE}={self.multiple_of}")
        return self.callee + ("?" + "&".join(pairs) if pairs else "")

    def without_fetching(self) -> PythonRecipe:
        """Return the recipe by which nothing is fetched, for a file that holds the weights.

        Raises:
            ArchitectureError: the factory is not there.
        """
        known = _parameters(self.load())
        given = dict(self.arguments)
        for name in _FETCHED:
            if name in given or name in known:
                on = known[name].default if name in known else None
                given[name] = "false" if isinstance(on, bool) else "none"
        return replace(self, arguments=tuple(given.items()))

    def class_count(self) -> str | None:
        """Return the factory's parameter that takes the number of classes, or None.

        Raises:
            ArchitectureError: the factory is not there.
        """
        known = _parameters(self.load())
        return next((name for name in CLASS_COUNTS if name in known), None)

    def stand_in_classes(self) -> int | None:
        """Return how many classes to try the factory with before the data says it.

        Left to itself, a library's factory may make a network of one class, which is refused.
        None: it was typed, or the factory takes no number.

        Raises:
            ArchitectureError: the factory is not there.
        """
        count = self.class_count()
        return None if count is None or count in dict(self.arguments) else 2

    def load(self) -> Callable[..., Any]:
        """Import the module and return the factory: this runs its code.

        Raises:
            MissingExtraError: it belongs to the libraries of our extra, which is not installed.
            ArchitectureError: it cannot be imported, or there is no such factory in it.
        """
        here = str(Path.cwd())
        if here not in sys.path:  # a console script does not look where it was started
            sys.path.append(here)
        try:
            with _torch_as_it_was():
                module = importlib.import_module(self.module)
        except (Exception, SystemExit) as error:  # the code is foreign: it may raise anything
            if isinstance(error, ModuleNotFoundError) and error.name in _OF_OUR_EXTRA:
                raise MissingExtraError(self.callee, "networks", error) from error
            if isinstance(error, ModuleNotFoundError) and error.name in _parents(self.module):
                raise ArchitectureError(
                    f"there is no module {error.name} for {self.callee}",
                    "install it, or start where it lies, or name its folder in PYTHONPATH",
                ) from error
            raise ArchitectureError(
                f"the module {self.module} cannot be imported ({spoken(error)})",
                "import it in Python and repair that first",
            ) from error
        try:
            found = reduce(getattr, self.factory.split("."), module)
        except AttributeError as error:
            raise ArchitectureError(
                f"the module {self.module} has no {self.factory}", _FORM
            ) from error
        if not callable(found):
            raise ArchitectureError(f"{self.callee} is no class or function", _FORM)
        return found

    def call(self, num_classes: int | None) -> object:
        """Return what the factory makes; the number of classes is handed on where it takes one.

        Raises:
            ArchitectureError: it raised.
        """
        factory, count = self.load(), self.class_count()
        given = {name: value_of(text) for name, text in self.arguments}
        if count is not None and num_classes is not None:
            given.setdefault(count, num_classes)
        try:
            with _torch_as_it_was():
                return factory(**given)
        except (Exception, SystemExit) as error:  # the code is foreign: it may raise anything
            raise ArchitectureError(
                f"{self.callee} raised {spoken(error)}", "give it other arguments with --arg"
            ) from error


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Put back what code of others may change of PyTorch for all that comes after it."""
    import torch

    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    device = torch.get_default_device()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


def is_python(architecture: str) -> bool:
    """Say whether a name is that of a network from Python."""
    return architecture.startswith(PREFIX)


def value_of(text: str) -> Any:
    """Return a typed value: none, true, false, a number, a list or object in JSON, or the text."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def spoken(error: BaseException) -> str:
    """Return an error of foreign code as part of a line."""
    text = " ".join(str(error).split())
    if len(text) > _SPOKEN:
        text = text[: _SPOKEN - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _parents(module: str) -> list[str]:
    words = module.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def _parameters(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some callables written in C nothing is known
        return {}
