"""Options of commands that import a network's code or load an engine: whether that is trusted."""

from collections.abc import Callable

import click

from fcn_deploy.core.code_trust import trusting_code


def _trust_code(context: click.Context, param: click.Parameter, value: bool) -> None:
    if value:  # until the command has ended
        context.with_resource(trusting_code())


trust_code_option = click.option(
    "--trust-code",
    is_flag=True,
    expose_value=False,
    callback=_trust_code,
    help="Import the code that a network of `import python:...` names; do so where you trust both "
    "the code and the file, for importing runs it.",
)
_argument_option = click.option(
    "--arg", "arguments", multiple=True, metavar="NAME=VALUE",
    help="Call the factory of python:... with this argument: a number, true, false, none, a list "
    "in JSON, or text; may be repeated.",
)  # fmt: skip
_multiple_option = click.option(
    "--multiple-of", type=click.IntRange(1, 1024), metavar="N",
    help="Pad pictures to multiples of N inside the network of python:..., and crop its logits.",
)  # fmt: skip


def argument_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--arg`` and ``--multiple-of``; the command is given ``arguments``, ``multiple_of``."""
    return _argument_option(_multiple_option(command))


def python_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the same, and ``--trust-code``, which works by itself."""
    return argument_options(trust_code_option(command))


_trust_engine_option = click.option(
    "--trust",
    is_flag=True,
    help="Load a TensorRT engine that has no sidecar; do so with engines of your own alone, for an "
    "engine can run any code.",
)


def trust_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add ``--trust``, which the command is given, and ``--trust-code``, which works by itself."""
    return _trust_engine_option(trust_code_option(command))
