"""Commands that a command runs, each as a user would type it, in a process of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from fcn_deploy.commands.shared.console import console


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
    return subprocess.run([sys.executable, "-m", "fcn_deploy", *words], check=False).returncode
