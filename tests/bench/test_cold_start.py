"""What a backend costs before its first mask: real children, and children that go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fcn_deploy
from fcn_deploy.bench import cold_start
from fcn_deploy.bench.cold_start import ColdStartPlan, measure_cold_start
from fcn_deploy.core.errors import BackendError, InputError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.conditions import ColdStart
from tests.fakes import FakeRunner

posix_only = pytest.mark.skipif(os.name != "posix", reason="the children are shell scripts")


def start(run: Run, **changes: Any) -> ColdStart:
    arguments: dict[str, Any] = {
        "precision": Precision.FP32,
        "threads": 1,
        "device": "auto",
        "size": (32, 48),
        "largest": (1, 32, 48),
        "timeout_s": 300,
    }
    runner = FakeRunner(backend=changes.pop("backend", "ort")).describe()
    return measure_cold_start(ColdStartPlan(run, runner, **(arguments | changes)))


def fails(figures: ColdStart) -> str:
    """Return the error of a cold start that must have no figures."""
    assert figures.error is not None
    assert figures == ColdStart(figures.runner, figures.size, figures.largest, error=figures.error)
    assert len(figures.error.splitlines()) == 1
    return figures.error


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a shell script in the place of Python."""

    def put(script: str) -> Path:
        path = tmp_path / "child"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return tmp_path

    return put


def test_a_real_child_is_measured(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither a relative run nor a user's file of a library's name may lead the child astray.
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_run / "model.onnx", tmp_path)
    if sys.version_info >= (3, 11):
        (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n")
    figures = start(Run(Path()))
    assert figures.error is None
    assert figures.cold_start_ms is not None
    assert figures.open_ms is not None
    assert figures.first_run_ms is not None
    assert figures.open_ms > 0
    assert figures.first_run_ms > 0
    assert figures.cold_start_ms >= figures.open_ms + figures.first_run_ms
    assert figures.device_memory_mib is None  # a runner on the CPU
    assert (figures.runner.backend, figures.size, figures.largest) == ("ort", (32, 48), (1, 32, 48))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux'")
def test_the_childs_peak_is_not_its_parents(tiny_run: Path) -> None:
    # This process once held a gibibyte more than the child ever needs.
    held = bytearray(1 << 30)
    held[::4096] = b"\1" * len(range(0, len(held), 4096))
    peak = start(Run(tiny_run)).peak_rss_mib
    assert peak is not None
    assert 10 < peak < len(held) / 2**20


@pytest.mark.skipif(os.name != "posix", reason="Windows does not tell a process's peak")
@pytest.mark.slow
def test_memory_is_that_of_the_largest_batch(tiny_run: Path) -> None:
    one, many = (start(Run(tiny_run), largest=(count, 256, 256)) for count in (1, 16))
    assert one.error is many.error is None
    assert one.peak_rss_mib is not None
    assert many.peak_rss_mib is not None
    assert many.peak_rss_mib > one.peak_rss_mib + 30  # 16 stems of 4 MiB each at least


def test_a_named_file_goes_to_the_child(tiny_run: Path, tmp_path: Path) -> None:
    other = shutil.copy(tiny_run / "model.onnx", tmp_path / "ünnamed model.onnx")
    assert start(Run.from_argument(other)).error is None
    assert "model.onnx" in fails(start(Run(tmp_path)))


def test_the_half_precision_file_is_taken(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / "model.fp16.onnx", tmp_path)
    assert start(Run(tmp_path), precision=Precision.FP16).error is None
    assert "fcn-deploy export" in fails(start(Run(tmp_path)))


def test_the_baseline_has_a_cold_start_too(tiny_run: Path, tmp_path: Path) -> None:
    assert "baseline.onnx" in fails(start(Run(tmp_path), backend="baseline"))


def test_what_the_child_refuses_is_the_error(tiny_run: Path) -> None:
    assert "no backend 'nonsense'" in fails(start(Run(tiny_run), backend="nonsense"))
    assert "drop --device cuda" in fails(start(Run(tiny_run), device="cuda"))


def test_a_damaged_file_is_the_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    assert "model.onnx" in fails(start(Run(tmp_path)))


@pytest.mark.parametrize("change", [{"size": (0, 32)}, {"timeout_s": 0}])
def test_senseless_arguments_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        start(Run(tmp_path), **change)


@posix_only
def test_the_childs_end_is_told(child: Any, tmp_path: Path) -> None:
    child("echo some noise; echo '  the last word' >&2; echo >&2; exit 3")
    assert fails(start(Run(tmp_path))) == "its process ended with exit code 3 (the last word)"
    child("kill -SEGV $$")
    assert fails(start(Run(tmp_path))).startswith("its process ended by SIGSEGV")
    child("echo '{\"error\": null}'")  # cut short
    assert fails(start(Run(tmp_path))) == "its process ended with exit code 0"


@posix_only
def test_no_python_no_cold_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert "cannot start" in fails(start(Run(tmp_path)))


def was_killed(process_id: int) -> bool:
    """Whether the child that slept is gone, by a kill and not of itself."""
    try:
        _, status = os.waitpid(process_id, 0)
    except ChildProcessError:  # subprocess has seen to it already
        return True
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@posix_only
def test_a_child_that_hangs_is_killed(child: Any, tmp_path: Path) -> None:
    folder = child("echo $$ >id; exec sleep 60")
    assert fails(start(Run(tmp_path), timeout_s=3)) == "no mask within 3 s"
    assert was_killed(int((folder / "id").read_text()))


INTERRUPTED = """
import os, pathlib, signal, sys
from fcn_deploy.bench.cold_start import ColdStartPlan, measure_cold_start
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from tests.fakes import FakeRunner
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started it may have ignored it
sys.executable = sys.argv[1]
try:
    measure_cold_start(ColdStartPlan(
        Run(pathlib.Path()), FakeRunner(backend="ort").describe(), Precision.FP32, 1, "auto",
        (32, 48), (1, 32, 48), 300,
    ))
except KeyboardInterrupt:
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def with_tests_on_the_path() -> dict[str, str]:
    """The environment of a process that imports our fakes from another folder than ours."""
    source_tree = str(Path(fcn_deploy.__file__).parents[1])
    theirs = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source_tree, theirs] if theirs else [source_tree]),
    }


@posix_only
def test_ctrl_c_kills_the_child(child: Any, tmp_path: Path) -> None:
    python = sys.executable
    folder = child("trap '' INT; echo $$ >part; mv part id; exec sleep 300")
    asked = [python, "-c", INTERRUPTED, str(folder / "child")]
    # A process of its own: a signal that came late would end this one with all its tests.
    with subprocess.Popen(
        asked, cwd=tmp_path, env=with_tests_on_the_path(), stdout=subprocess.PIPE, text=True
    ) as measuring:
        while not (folder / "id").exists():
            assert measuring.poll() is None
            time.sleep(0.02)
        measuring.send_signal(signal.SIGINT)
        assert measuring.communicate(timeout=60) == (f"{-signal.SIGKILL}\n", None)


@posix_only
def test_the_child_inherits_the_environment_and_finds_the_package(
    child: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = child('echo "$PYTHONPATH" >path; echo "$FLAVOUR" >flavour; echo "$1 $2" >arguments')
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    monkeypatch.setenv("FLAVOUR", "plum")
    start(Run(tmp_path))
    source_tree = Path(fcn_deploy.__file__).parents[1]
    assert (folder / "path").read_text() == f"{source_tree}{os.pathsep}/theirs\n"
    assert (folder / "flavour").read_text() == "plum\n"
    assert (folder / "arguments").read_text() == "-m fcn_deploy.bench.cold_start\n"


def test_site_packages_never_go_before_the_standard_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = "/usr/lib/python3/site-packages/fcn_deploy/bench/cold_start.py"
    monkeypatch.setattr(cold_start, "__file__", installed)
    assert "PYTHONPATH" not in cold_start._environment({})


def test_the_peak_out_of_proc_status() -> None:
    assert cold_start._peak_in("Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n") == 2
    assert cold_start._peak_in("Name:\tpython\n") is None


@posix_only
@pytest.mark.parametrize("run", [Run(Path("a/b")), Run(Path("a"), Path("b.plan"), trusted=True)])
def test_parent_and_child_mean_the_same_run(
    child: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fcn_deploy.machine.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("fcn_deploy.machine.cuda.memory_in_use", lambda: 200 << 20)
    folder = child('echo "$3" >order')
    start(run, backend="trt", precision=Precision.FP16, threads=None, device="cuda")
    opened: list[tuple[Any, ...]] = []
    runner = FakeRunner(device="cuda:0 (Fake GPU)")

    def open_runner(*arguments: Any, **options: Any) -> FakeRunner:
        opened.append((*arguments, options))
        return runner

    monkeypatch.setattr(cold_start, "open_runner", open_runner)
    monkeypatch.setattr("fcn_deploy.machine.cuda.memory_in_use", lambda: 700 << 20)
    figures = cold_start._measure_here(json.loads((folder / "order").read_text()))
    options = {"precision": Precision.FP16, "threads": None, "device": "cuda"}
    assert opened == [(run, "trt", options)]
    assert runner.shapes == [(1, 32, 48, 3)] * (1 + cold_start.MORE_RUNS)
    assert runner.closed
    assert figures["device_memory_mib"] == 500


def test_gpu_memory_is_what_came_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcn_deploy.machine.cuda.unavailable_reason", lambda: None)
    monkeypatch.setattr("fcn_deploy.machine.cuda.memory_in_use", lambda: 700 << 20)
    assert cold_start._held_memory_mib(200 << 20) == 500
    assert cold_start._held_memory_mib(None) is None
    assert cold_start._held_memory_mib(900 << 20) is None  # another process gave memory back

    def broken() -> int:
        raise BackendError("the GPU is lost")

    monkeypatch.setattr("fcn_deploy.machine.cuda.memory_in_use", broken)
    assert cold_start._held_memory_mib(200 << 20) is None
    monkeypatch.setattr("fcn_deploy.machine.cuda.unavailable_reason", lambda: "no GPU")
    assert cold_start._device_memory_in_use() is None
