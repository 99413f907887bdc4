"""Commands that a command runs, each as a user would type it, in a process of its own."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fcn_deploy.commands.shared.console import console

#: Runs a command as the installed program does.  `python -m` would look for our package, and all
#: that it imports, in the current folder first: a picture folder with an `onnx.py` in it.
_PROGRAM = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; "
    "from fcn_deploy.cli import main; main()"
)
#: Seconds that a step may take to end by itself after Ctrl-C.
_PATIENCE = 10.0


def path_word(path: Path) -> str:
    """Return a path as a word of a command, which must not be taken for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def command_line(words: Sequence[str]) -> str:
    """Return the words of a command as they would be typed in a shell."""
    return shlex.join(["fcn-deploy", *words])


def run_step(words: Sequence[str]) -> int:
    """Print a command and run it on this terminal; return its exit code.

    Args:
        words: behind ``fcn-deploy``.
    """
    console.print(f"$ {command_line(words)}")
    sys.stdout.flush()
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, *words]) as step:
        try:
            return step.wait()
        except KeyboardInterrupt:  # from a terminal it went to the step as well, which cleans up
            try:
                with suppress(subprocess.TimeoutExpired):
                    step.wait(_PATIENCE)
            finally:
                step.kill()  # nothing is left of it, also after a second Ctrl-C
            raise
