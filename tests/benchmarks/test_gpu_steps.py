"""The real list of steps, run with Pythons that only note what they are called with.

Every call is then parsed for real, so that no step ends on a GPU because an option was renamed.
"""

import argparse
import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from fcn_deploy.cli import fcn_deploy
from tests.benchmarks.gpu_scripts import SCRIPTS, load_script

#: Scripts that read their arguments by place: how many they take.
BY_PLACE = {"eightfold": (2, 2), "rtx_engine": (2, 2), "backends": (2, 9), "turns": (3, 99)}
STEPS = (SCRIPTS / "steps.txt").read_text(encoding="utf-8")
#: A Python that notes its arguments, and writes what later steps need of it.
NOTING = r"""#!/bin/bash
printf '%s\037' "$@" >> "$CALLS"; echo >> "$CALLS"
for word; do
    case $word in
        */backends.py) echo --backend torch --backend torch-graphs --backend ort-cuda > "$2" ;;
        */turn-*.json) touch "$word" ;;
        record) mkdir -p reference; touch reference/reference.json ;;
        --out) touch_next=yes; continue ;;
    esac
    case ${touch_next:-}$word in
        yes*.json | yes*engines) ;;
        yes*) mkdir -p "$word"; touch "$word"/{metrics.json,model.safetensors} ;;
    esac
    touch_next=
done
"""


@dataclass(frozen=True)
class Rehearsal:
    """What became of the steps.

    Attributes:
        out: the folder of the results.
        calls: the arguments of each call of a Python.
        codes: step → exit code.
        said: on standard output.
    """

    out: Path
    calls: list[list[str]]
    codes: dict[str, int]
    said: str


def executable(path: Path, content: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)
    return path


def rehearsed(
    folder: Path, command: Sequence[str | Path], out: Path, *, trt: bool = True
) -> Rehearsal:
    calls = folder / "calls"
    python = executable(folder / "bin" / "python", NOTING)
    executable(folder / "bin" / "nvidia-smi", "#!/bin/bash\necho No devices were found; exit 6\n")
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": "",
        "CALLS": str(calls), "SPARE": "0",
    }  # fmt: skip
    for name in ("torch_python", "rtx_python", *(["trt_python"] if trt else [])):
        environment[name] = environment[name.upper()] = str(python)
    result = subprocess.run(
        ["bash", *command], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )
    assert result.stderr == ""
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    codes = {step["step"]: step["exit_code"] for step in steps}
    assert len(codes) == len(steps)
    words = [line.split("\037")[:-1] for line in calls.read_text().splitlines()]
    return Rehearsal(out, words, codes, result.stdout)


def labelled_run(folder: Path) -> None:
    """Make what the steps begin with: a trained run and a folder of pictures."""
    for name in ("run", "data"):
        (folder / name).mkdir()
    (folder / "run" / "model.safetensors").write_bytes(b"weights")


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """All steps, as `run.sh` takes them on a machine that one owns."""
    folder = tmp_path_factory.mktemp("owned")
    labelled_run(folder)
    options = ["--run", "run", "--data", "data", "--limit", "12", "--workspace", "8192"]
    return rehearsed(folder, [SCRIPTS / "run.sh", "out", *options], folder / "out")


class AcceptedError(Exception):
    """The arguments were parsed; nothing is to be done with them."""


def require_accepted(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse the arguments of a call of Python as what it calls would."""
    first, *others = words
    if first == "-c":
        require_names(others[0])
        return
    if first == "-m" and others[0] == "fcn_deploy":
        verb, *options = others[1:]
        fcn_deploy.commands[verb].make_context(verb, list(options))
        return
    script = Path(first)
    assert script.is_file()
    if script.stem == "pytest_json":
        assert others[0].endswith(".json")
        files = [Path(word) for word in others[1:] if word.endswith(".py")]
        assert files
        assert all("pytest.mark.gpu" in file.read_text(encoding="utf-8") for file in files)
        return
    if script.parent.name == "benchmarks":
        command = getattr(importlib.import_module(script.stem), script.stem)
        assert isinstance(command, click.Command)
        command.make_context(script.stem, list(others))
    elif script.stem in BY_PLACE:
        fewest, most = BY_PLACE[script.stem]
        assert fewest <= len(others) <= most
    else:
        parse = argparse.ArgumentParser.parse_args

        def parsed(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> None:
            parse(parser, given)
            raise AcceptedError

        main = load_script(script.stem).main
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
            with pytest.raises(AcceptedError):
                main(others)


def require_names(code: str) -> None:
    """Find the names that a line of Python imports, without loading what defines them."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        found = importlib.util.find_spec(str(node.module))
        assert found is not None
        assert found.origin is not None
        defined = ast.parse(Path(found.origin).read_text(encoding="utf-8")).body
        names = {getattr(entry, "name", None) for entry in defined}
        assert {name.name for name in node.names} <= names


def test_every_call_of_every_step_is_accepted(
    owned: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(owned.calls) > 50
    for words in owned.calls:
        if not words[0].endswith("/table.py"):
            require_accepted(words, monkeypatch)
    # What may be missing on some machine is not the fault of a call.
    assert {name for name, code in owned.codes.items() if code} <= {"machine"}


@pytest.mark.slow  # the table loads every peer
def test_the_call_of_the_table_of_peers_is_accepted(
    owned: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    (words,) = [words for words in owned.calls if words[0].endswith("/table.py")]
    require_accepted(words, monkeypatch)
    with pytest.raises(click.UsageError):
        require_accepted([*words, "--no-such-option"], monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "fcn_deploy", "build", "model", "--no-such-option"],
        ["-m", "fcn_deploy", "export", "model", "--tail", "no-such-tail"],
        [str(SCRIPTS / "device_tier.py"), "model", "fp17", "x.json"],
        [str(SCRIPTS / "parity_apart.py"), "compare", "model", "trt", "fp16"],
        [str(SCRIPTS / "eightfold.py"), "data"],
        ["-c", "from fcn_deploy.core.run import NoSuchName"],
    ],
)
def test_a_call_that_would_fail_is_found(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((click.UsageError, SystemExit, AssertionError)):
        require_accepted(words, monkeypatch)


def test_every_step_of_the_list_has_its_turn_once(owned: Rehearsal) -> None:
    lines = (SCRIPTS / "steps.txt").read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    names = [re.sub(r"^\+", "", line.split("|")[0]).strip() for line in listed]
    assert len(set(names)) == len(names)
    assert set(names) - set(owned.codes) == set(), owned.said
    needed = {name for line in listed for name in re.findall(r"done/([\w-]+)", line.split("|")[1])}
    assert needed <= set(names)
    for line in listed:
        _name, _needs, least, limit, _command = line.split("|", 4)
        assert 0 <= int(least) < 600
        assert 0 < int(limit) <= 600  # of a machine that is lent for a quarter of an hour
    # What `run.sh` was asked for reaches the commands.
    typed = [" ".join(words) for words in owned.calls]
    assert sum("--limit 12" in words for words in typed) >= 8
    assert sum("--workspace 8192" in words for words in typed) == 4
    assert len(list(owned.out.glob("*.log"))) == len(names)
    assert (owned.out / "results.tgz").is_file()
    assert not (owned.out / "work" / "reference").exists()


def needs_and_commands() -> dict[str, tuple[set[str], str]]:
    """Return of each step what it needs and what it calls."""
    text = STEPS.replace("\\\n", "")
    lines = [line.split("|", 4) for line in text.splitlines() if line and line[0] != "#"]
    return {name.strip("+ "): (set(needs.split()), told) for name, needs, _, _, told in lines}


def test_what_the_host_has_a_part_in_is_timed_on_an_idle_machine() -> None:
    steps = needs_and_commands()
    borrowed = {name: step for name, step in steps.items() if f"\n+{name} " not in STEPS}
    timed = {
        name: needs
        for name, (needs, command) in borrowed.items()
        if re.search("fcn_deploy bench|bench_(trt|others)", command)
        or ("device_tier.py" in command and not {"--alone", "--leak"} & set(command.split()))
    }
    assert len(timed) >= 12
    assert [name for name, needs in timed.items() if "all-there" not in needs] == []
    # What the GPU's own clock tells waits for the engine alone.
    assert steps["device-alone-fp16"][0] == {"done/build-fp16.ok"}


def test_each_turn_that_is_whole_gives_a_ratio() -> None:
    steps = needs_and_commands()
    for step, turn in (("turns-1", 1), ("turns-2", 2), ("turns", 3)):
        needs, command = steps[step]
        assert {need.removesuffix(".ok") for need in needs} == {f"done/turn-{turn}-others"}
        assert "$out/turns.json" in command
        assert [*steps].index(step) == [*steps].index(f"turn-{turn}-others") + 1


def borrowed_folder(folder: Path) -> Path:
    """Make the work folder of a borrowed machine to which nothing more will come."""
    labelled_run(folder)
    work = folder / "work"
    work.mkdir()
    (folder / "run").rename(work / "model")
    (folder / "data").rename(work / "camvid")
    (work / "all-sent").touch()
    return work


@pytest.mark.slow
def test_every_step_for_borrowed_time_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = borrowed_folder(tmp_path)
    found = rehearsed(tmp_path, [SCRIPTS / "queue.sh", work], work / "out")
    for words in found.calls:
        require_accepted(words, monkeypatch)
    assert {name for name, code in found.codes.items() if code} <= {"machine"}
    assert not any(name.startswith(("train-", "rtx-", "peers")) for name in found.codes)
    assert (work / "out" / "not-run.txt").read_text() == ""
    order = list(found.codes)
    # PyTorch's half gives way to TensorRT's as soon as that can run.
    assert order.index("build-fp16") < order.index("parity-record") < order.index("parity-trt-fp16")
    assert order.index("turn-1-others") == order.index("turn-1-trt") + 1


@pytest.mark.slow
def test_without_tensorrt_the_others_are_measured(tmp_path: Path) -> None:
    work = borrowed_folder(tmp_path)
    found = rehearsed(tmp_path, [SCRIPTS / "queue.sh", work], work / "out", trt=False)
    assert {"bench-others-320x480", "bench-offline-others", "parity-record"} <= set(found.codes)
    waiting = (work / "out" / "not-run.txt").read_text()
    assert "build-fp16: needs trt-here done/probe" in waiting
    assert not {"probe", "turn-1-trt", "leak"} & set(found.codes)
