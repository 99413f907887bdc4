"""The command line: its commands in sections, and every error as one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from fcn_deploy import __version__
from fcn_deploy.commands.bench import bench
from fcn_deploy.commands.build import build
from fcn_deploy.commands.bundle import bundle
from fcn_deploy.commands.data import data
from fcn_deploy.commands.doctor import doctor
from fcn_deploy.commands.evaluate import evaluate
from fcn_deploy.commands.export import export
from fcn_deploy.commands.import_network import import_network
from fcn_deploy.commands.package import package
from fcn_deploy.commands.parity import parity
from fcn_deploy.commands.predict import predict
from fcn_deploy.commands.report import report
from fcn_deploy.commands.scenes import scenes
from fcn_deploy.commands.serve import serve
from fcn_deploy.commands.shared.console import (
    EXIT_BAD_INPUT,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    printable,
)
from fcn_deploy.commands.ship import ship
from fcn_deploy.commands.train import train
from fcn_deploy.commands.verify import verify
from fcn_deploy.core.errors import FcnDeployError, WriteError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Else ONNX Runtime 1.31 keeps a telemetry database in the home folder from its import on.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Taken out by hand so that it may stand anywhere: people append it to a failed command.
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of another encoding must not cost a result for the sake of an ε.
            stream.reconfigure(errors="replace")
    try:
        code = fcn_deploy.main(words or ["--help"], prog_name="fcn-deploy", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, WriteError) and (flags := _output_flags(words)):
            error.name_flags(flags)
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _output_flags(words: Sequence[str]) -> str:
    """Return the options by which the command that was typed may be told where to write."""
    command: click.Command = fcn_deploy
    for word in words:
        if isinstance(command, click.Group):
            command = command.commands.get(word, command)
    options = (option for param in command.params for option in param.opts)
    return " or ".join(option for option in options if option in ("--out", "--json"))


def _explain(error: BaseException) -> int:
    if isinstance(error, FcnDeployError):
        line, code = str(error), error.exit_code
    elif isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "fcn-deploy"
        line = error.format_message()
        line += "" if line.endswith((".", "?", "!")) else "."
        line, code = f"{line} See `{command} --help`.", EXIT_BAD_INPUT
    elif isinstance(error, click.ClickException):
        line, code = error.format_message(), EXIT_BAD_INPUT
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        line, code = f"{where}{error.strerror or error}", EXIT_BAD_INPUT
    elif isinstance(error, (KeyboardInterrupt, click.Abort)):
        line, code = "stopped; files that were finished are whole", EXIT_INTERRUPTED
    elif isinstance(error, MemoryError):
        line, code = "out of memory; use smaller pictures, crops or batches", EXIT_BAD_INPUT
    else:
        line = f"{type(error).__name__}: {error}; this is a bug of ours: see it with --debug"
        code = EXIT_FAILED
    click.echo(f"fcn-deploy: {printable(' '.join(line.split()))}", err=True)
    return code


#: Letters of a command's first sentence that the list of commands shows: all of it.
_FIRST_SENTENCE = 120
#: Sections of `--help`, and their commands, in the order in which one works.
SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Data": (scenes, data),
    "Train": (train, import_network),
    "Export": (export, build),
    "Prove": (parity, evaluate, bench),
    "Use": (predict, serve, report, package),
    "Hand over": (ship, bundle, verify),
    "This machine": (doctor,),
}


class SectionedGroup(click.Group):
    """A group whose help lists the commands in sections."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        return [str(command.name) for commands in SECTIONS.values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section with its commands and a line on each."""
        longest = max(map(len, self.list_commands(ctx)))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                rows = [
                    (str(c.name).ljust(longest), c.get_short_help_str(_FIRST_SENTENCE))
                    for c in commands
                ]
                formatter.write_dl(rows)


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fcn-deploy")
def fcn_deploy() -> None:
    """From labelled images to segmentation masks that are the same on every backend.

    RUN is a run directory (default runs/fcn) or one of its files. Add --debug to any command
    for the full traceback of an error.
    """


for _commands in SECTIONS.values():
    for _command in _commands:
        fcn_deploy.add_command(_command)
