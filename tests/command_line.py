"""What a command line gave, for tests of the commands as typed."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finished:
    """A command that has ended.

    Attributes:
        code: its exit code.
        out: what it printed on stdout.
        err: what it printed on stderr.
    """

    code: int
    out: str
    err: str

    def succeeded(self) -> "Finished":
        """Return the same, after checking that it ended with exit code 0."""
        assert self.code == 0, self.out + self.err
        return self

    def failed(self) -> "Finished":
        """Return the same, after checking that something did not hold: exit code 1."""
        assert self.code == 1, self.out + self.err
        return self


FcnDeploy = Callable[..., Finished]


def run_command(*words: str) -> tuple[int, str, str]:
    """Run a command line in a process of its own; return exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "fcn_deploy", *words], capture_output=True, text=True
    )
    return done.returncode, done.stdout, done.stderr


def run_without_torch(*words: str | Path) -> Finished:
    """Run a command line in a process in which PyTorch cannot be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'safetensors'): sys.modules[name] = None\n"
        "from fcn_deploy.cli import main\n"
        f"main({list(map(str, words))!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def refused(finished: Finished, *words: str) -> None:
    """Assert that a command ended with one clear line and exit code 2."""
    assert finished.code == 2, finished
    assert len(finished.err.strip().splitlines()) == 1, finished.err
    assert "Traceback" not in finished.err + finished.out
    assert finished.err.startswith("fcn-deploy: ")
    for word in words:
        assert word in finished.err, finished.err
