"""A virtual environment with the real tritonserver and what its Python backend needs.

    python tests/triton/environment.py DIR

The wheel `nvidia-pytriton` (Apache-2.0) holds the server, the Python backend and its stubs.  Knows
the standard library alone: CI calls it before anything is installed.
"""

import subprocess
import sys
from pathlib import Path

#: Names a folder that :func:`install` has filled.
VARIABLE = "FCN_DEPLOY_TRITON_ENVIRONMENT"
SERVER = "nvidia-pytriton==0.7.0"
#: With numpy 2 this server's Python backend gives empty tensors, without an error.
NEEDED = ("numpy<2", "onnxruntime>=1.20")

#: Seconds that each step of the installation may take.
_PATIENCE = 300


class NoServerError(Exception):
    """The server cannot be had here; says why."""


def install(folder: Path) -> None:
    """Make the environment.

    Raises:
        NoServerError: the wheel does not install, or is not for this Python.
    """
    try:
        _run(sys.executable, "-m", "venv", str(folder))
        pip = (
            str(folder / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
        )
        _run(*pip, *NEEDED)
        _run(*pip, "--no-deps", "--only-binary", ":all:", SERVER)  # the rest is for its client
    except OSError as error:
        raise NoServerError(str(error)) from error
    stub_of(folder)


def _run(*words: str) -> None:
    """Run a module of Python's, as ``python -m NAME …``."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise NoServerError(f"{words[2]} took more than {_PATIENCE} s") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise NoServerError(f"{words[2]}: {lines[-1] if lines else done.returncode}")


def packages_of(folder: Path) -> Path:
    """Return where the packages of an environment lie.

    Raises:
        NoServerError: there are none.
    """
    found = sorted(folder.glob("lib/python3*/site-packages"))
    if not found:
        raise NoServerError(f"{folder} is no environment")
    return found[0]


def stub_of(folder: Path) -> Path:
    """Return the process that the Python backend starts, for the environment's Python.

    Raises:
        NoServerError: the wheel has none for it.
    """
    packages = packages_of(folder)
    version = packages.parent.name.removeprefix("python")
    stubs = packages / "pytriton" / "tritonserver" / "python_backend_stubs"
    stub = stubs / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise NoServerError(f"{SERVER} has no Python backend for Python {version}")
    return stub


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]))
    except NoServerError as problem:
        sys.exit(str(problem))
