"""The real tritonserver as a process on this machine, with a stand-in for its ONNX backend."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.triton.environment import packages_of, stub_of

_HOST = "127.0.0.1"
#: Seconds that loading and warming up may take on a machine that does other things too.
_PATIENCE = 300


@dataclass(frozen=True)
class TritonServer:
    """A server that is ready.

    Attributes:
        http: host and port of its HTTP endpoint.
        grpc: the same of its gRPC endpoint.
        metrics: URL of its metrics.
        log: what it printed.
        process: its id.
    """

    http: str
    grpc: str
    metrics: str
    log: Path
    process: int

    def executed(self) -> list[str]:
        """Return the shapes that the stand-in was given, in order."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line.split()[1] for line in lines if line.startswith("executed ")]

    def read_metrics(self) -> str:
        """Return the metrics as text."""
        with urllib.request.urlopen(self.metrics, timeout=30) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def running(
    environment: Path, repositories: Sequence[Path], folder: Path
) -> Iterator[TritonServer]:
    """Start the server, wait until it is ready, and end it whatever happens.

    Args:
        environment: see :mod:`tests.triton.environment`.
        repositories: to load all models of.
        folder: for its backends and its log.
    """
    http, grpc, metrics = _free_ports(3)
    written = folder / "log"
    tritonserver = packages_of(environment) / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    words = [
        str(tritonserver),
        *(f"--model-repository={path}" for path in repositories),
        f"--backend-directory={_backends(environment, folder / 'backends')}",
        *(f"--{name}-address={_HOST}" for name in ("http", "grpc", "metrics")),
        *(f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"),
        "--disable-auto-complete-config",  # the configuration counts as it was written
        "--exit-timeout-secs=5",
    ]
    with written.open("w") as log:
        process = subprocess.Popen(
            words,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_variables(environment),
            start_new_session=True,  # the backend's own processes end with it
        )
    server = TritonServer(
        http=f"{_HOST}:{http}",
        grpc=f"{_HOST}:{grpc}",
        metrics=f"http://{_HOST}:{metrics}/metrics",
        log=written,
        process=process.pid,
    )
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        _end(process)


def _backends(environment: Path, folder: Path) -> Path:
    packages = packages_of(environment) / "pytriton" / "tritonserver" / "backends" / "python"
    python = folder / "python"
    shutil.copytree(packages, python)
    shutil.copy(stub_of(environment), python)
    (folder / "onnxruntime").mkdir()
    shutil.copy(Path(__file__).with_name("stand_in.py"), folder / "onnxruntime" / "model.py")
    return folder


def _variables(environment: Path) -> dict[str, str]:
    packages = packages_of(environment)
    libraries = (packages / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    # The backend's Python is that of the first `python3` in PATH, with the packages of its
    # environment: those of the tests' own have another numpy.
    path = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
    return {
        **os.environ,
        "PATH": path,
        "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in libraries if path),
        "PYTHONPATH": str(packages),
    }


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.create_server((_HOST, 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in with_ports]
    for listener in with_ports:
        listener.close()
    return ports


def _wait_until_ready(server: TritonServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        # URLError, a connection that ends and one that answers nothing: all are OSErrors.
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5),
        ):
            return
        time.sleep(0.2)
    raise AssertionError(f"tritonserver did not start:\n{server.log.read_text()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=15)
    process.wait()
