"""The queue for a borrowed machine, rehearsed: pieces, steps that hang and fail, a deadline."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.gpu_scripts import SCRIPTS

#: Joins pieces and unpacks them as they come, as the one that is sent along does.
UNPACK = """\
set -euo pipefail
folder=$1 dest=$2 name=$3
mkdir -p "$dest"
while read -r _ piece; do
    until [ -e "$folder/$piece" ]; do sleep 0.05; done
    cat "$folder/$piece"
done < "$folder/$name.sums" | tar -x -C "$dest"
touch "$dest/.unpacked"
"""


class Machine:
    """A borrowed machine: what is called there, and what comes back.

    Args:
        folder: of everything that is there.
        steps: the list of the queue.
    """

    def __init__(self, folder: Path, steps: str) -> None:
        self.work, self._steps = folder / "work", folder / "steps.txt"
        self._folder, self._reports = folder, 0
        self._steps.write_text(steps, encoding="utf-8")

    def call(self, *words: str | Path) -> str:
        result = subprocess.run(
            ["bash", SCRIPTS / "queue.sh", self.work, *words],
            capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "STEPS": str(self._steps), "SPARE": "0", "GRACE": "1"},
        )  # fmt: skip
        assert result.stderr == ""
        return result.stdout

    def run(self) -> None:
        """Run the queue here and now, as on a machine to which nothing more comes."""
        self.work.mkdir(exist_ok=True)
        (self.work / "all-sent").touch()
        self.call()

    def report(self, *words: str) -> tuple[str, Path]:
        """Ask for a report; return what it says and the folder that came back."""
        self._reports += 1
        folder = self._folder / f"report-{self._reports}"
        return self.call("--report", folder, *words), folder

    def steps(self, archive: Path | None = None) -> list[dict[str, Any]]:
        """Return the steps that have ended, as the last archive or the one named has them."""
        with tarfile.open(archive or self.work / "results.tgz") as packed:
            try:
                member = packed.extractfile("./steps.jsonl")
            except KeyError:  # none has ended yet
                return []
            assert member is not None
            return [json.loads(line) for line in member.read().decode().splitlines()]

    def order(self) -> list[str]:
        return (self.work / "order").read_text().split()

    def end(self) -> None:
        """End what runs in the background, as the machine's owner does."""
        for name in ("queue.pid", "pieces/kit.pid"):
            with suppress(FileNotFoundError, ProcessLookupError):
                os.killpg(int((self.work / name).read_text()), signal.SIGKILL)


Borrow = Callable[[str], Machine]


@pytest.fixture
def borrow(tmp_path: Path) -> Iterator[Borrow]:
    """Borrow a machine for a list of steps; it is given back at the end."""
    machines = []

    def borrowed(steps: str) -> Machine:
        machines.append(Machine(tmp_path, steps))
        return machines[-1]

    yield borrowed
    for machine in machines:
        machine.end()


def test_of_all_steps_the_first_that_can_run_runs(borrow: Borrow, tmp_path: Path) -> None:
    machine = borrow(
        """\
        # A comment | with | the | same | signs
        late | from-fails | 0 | 9 | echo late >> order
        after | done/fails | 0 | 9 | \\
            echo after | cat >> order
        never | done/fails.ok | 0 | 9 | echo never >> order
        long | | 100000 | 9 | echo long >> order
        fails | | 0 | 9 | echo fails >> order; echo {} > $out/fails.json; touch from-fails; \\
            false; echo never >> order
        then | done/after.ok | 0 | 9 | echo then >> order
        +owned | | 0 | 9 | echo owned >> order
        """,
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "deadline").write_text(str(int(time.time()) + 1000))
    machine.run()
    assert machine.order() == ["fails", "late", "after", "then"]
    steps = machine.steps()
    assert [(step["step"], step["exit_code"]) for step in steps] == [
        ("fails", 1), ("late", 0), ("after", 0), ("then", 0)
    ]  # fmt: skip
    assert (machine.work / "out" / "not-run.txt").read_text().splitlines() == [
        "never: needs done/fails.ok",
        "long: too little time",
    ]
    with tarfile.open(machine.work / "results.tgz") as packed:
        assert {"./fails.log", "./fails.json", "./not-run.txt"} <= set(packed.getnames())
    # What was mended runs again, and what waited for it; a former result is deleted first.
    mended = "        fails | | 0 | 9 | [ ! -e $out/fails.json ]; echo again >> order\n"
    (tmp_path / "steps.txt").write_text(mended + (tmp_path / "steps.txt").read_text())
    machine.call("--again", "fails")
    machine.report("30")
    assert machine.order() == ["fails", "late", "after", "then", "again", "never"]


@pytest.mark.slow
def test_only_one_queue_runs_in_a_folder(borrow: Borrow) -> None:
    machine = borrow("one | | 0 | 60 | echo one >> order; until [ -e go ]; do sleep 0.05; done\n")
    machine.call("--start", "60")
    machine.call("--start", "60")
    assert "running: one" in machine.report()[0]
    (machine.work / "go").touch()
    machine.call("--all-sent")
    assert "the queue has ended" in machine.report("30")[0]
    assert machine.order() == ["one"]


@pytest.mark.slow
def test_a_step_that_hangs_ends_at_its_limit_with_all_that_it_began(borrow: Borrow) -> None:
    machine = borrow(
        """\
        hangs | | 0 | 2 | sleep 600 & echo $! > pid; wait
        deaf | | 0 | 2 | trap '' TERM; echo $BASHPID > deaf-pid; while :; do sleep 0.2; done
        next | | 0 | 9 | echo next >> order
        """,
    )
    machine.run()
    assert [step["exit_code"] for step in machine.steps()] == [124, 137, 0]
    for name in ("pid", "deaf-pid"):
        stat = Path("/proc", (machine.work / name).read_text().strip(), "stat")
        # Ended, or ended and not asked for its exit code yet.
        assert not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.slow
def test_the_deadline_is_kept(borrow: Borrow) -> None:
    machine = borrow(
        """\
        endless | | 1 | 600 | sleep 600
        next | | 1 | 600 | echo next >> order
        """,
    )
    machine.call("--start", "4")
    said, folder = machine.report("60")
    assert "the queue has ended" in said
    assert "next: too little time" in said
    (step,) = machine.steps(folder / "results.tgz")
    assert step["exit_code"] == 124
    assert step["limit"] <= 4
    assert step["left"] <= 0


class Sender:
    """What is sent: the first archive, and a Python in three pieces with their checksums."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        first = self._packed({"model/model.safetensors": b"weights"}, "xz")
        self.first = self._file("first.tar.xz", first)
        python = b'#!/bin/bash\necho $PYTHONPATH > pythonpath; "$@"\n'
        kit = self._packed({"bin/python3.10": python, "ballast": os.urandom(30_000)}, "")
        third = len(kit) // 3
        contents = [kit[:third], kit[third : 2 * third], kit[2 * third :]]
        self.pieces = [
            self._file(f"kit.{index:02}", content) for index, content in enumerate(contents)
        ]
        sums = [f"{hashlib.sha256(c).hexdigest()}  kit.{i:02}\n" for i, c in enumerate(contents)]
        self.sums = self._file("kit.sums", "".join(sums).encode())
        self.unpack = self._file("unpack.sh", UNPACK.encode())

    def damaged(self, piece: Path) -> Path:
        (self._folder / "damaged").mkdir()
        content = bytearray(piece.read_bytes())
        content[-1] ^= 1
        return self._file(f"damaged/{piece.name}", bytes(content))

    def _file(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path

    def _packed(self, files: dict[str, bytes], compression: str) -> bytes:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode=f"w:{compression}") as archive:  # type: ignore[call-overload]
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
        return target.getvalue()


STEPS = """\
engine | trt-here done/export.ok | 0 | 20 | \\
    mkdir -p engines; trt head -c 16M /dev/zero > engines/model.fp16.plan; \\
    echo timings > timings.cache; echo '{"layers": 1}' > engines/model.fp16.plan.json; \\
    echo engine >> order
quiet | all-there | 0 | 20 | echo quiet >> order
after-engine | done/engine.ok | 0 | 20 | echo after-engine >> order
export | model/model.safetensors | 0 | 20 | \\
    cmp model/model.safetensors <(printf weights); echo export >> order
hangs | | 0 | 2 | echo hangs >> order; sleep 600
fails | | 0 | 20 | echo fails >> order; exit 7
"""


@pytest.mark.slow
def test_transfers_of_which_one_is_damaged_one_lost_and_one_late(
    borrow: Borrow, tmp_path: Path
) -> None:
    machine, sender = borrow(STEPS), Sender(tmp_path / "sender")
    kit = sender.pieces
    # 1: weights, the list of the pieces and what joins them; torch's half begins.
    machine.call("--receive", sender.first, sender.sums, sender.unpack, "--start", "100")
    said, _ = machine.report()
    assert "not here: kit.00 kit.01 kit.02; send again what was sent" in said
    # 2: a piece that was damaged on its way is not taken, and asked for.
    assert "damaged: kit.01" in machine.call("--receive", kit[0], sender.damaged(kit[1]))
    assert "not here: kit.01 kit.02;" in machine.report()[0]
    # 3: the last piece overtakes it.  What needs no kit has run meanwhile.
    machine.call("--receive", kit[2])
    until(machine, "fails")
    said, folder = machine.report()
    assert "not here: kit.01;" in said
    assert "running: nothing, waiting" in said
    assert [file.name for file in folder.iterdir()] == ["results.tgz"]
    ended = machine.steps(folder / "results.tgz")
    assert [(step["step"], step["exit_code"]) for step in ended] == [
        ("export", 0), ("hangs", 124), ("fails", 7)
    ]  # fmt: skip
    # 4: it is sent again; the engine is made, and only then what wants the machine left alone.
    said = machine.call("--receive", kit[1], "--all-sent", "--report", tmp_path / "last", "60")
    assert "not here" not in said
    assert "the queue has ended" in said
    assert machine.order()[:3] == ["export", "hangs", "fails"]
    assert set(machine.order()[3:]) == {"engine", "quiet", "after-engine"}
    assert machine.order().index("engine") < machine.order().index("after-engine")
    assert machine.steps(tmp_path / "last" / "results.tgz")[:3] == ended
    source = (machine.work / "pythonpath").read_text().strip()
    assert source == str((machine.work / "src").resolve())
    assert (Path(source) / "fcn_deploy" / "cli.py").is_file()
    # The engine comes back in pieces, with its sidecar and the timings; nothing else does.
    assert sorted(file.name for file in (tmp_path / "last").iterdir()) == [
        "engines.tar.0", "engines.tar.1", "results.tgz"
    ]  # fmt: skip
    joined = b"".join((tmp_path / "last" / f"engines.tar.{n}").read_bytes() for n in (0, 1))
    with tarfile.open(fileobj=io.BytesIO(joined)) as packed:
        sizes = {member.name: member.size for member in packed.getmembers()}
    assert sizes.pop("engines/model.fp16.plan") == 16 << 20
    assert sorted(sizes) == ["engines/model.fp16.plan.json", "timings.cache"]
    with tarfile.open(tmp_path / "last" / "results.tgz") as packed:
        assert "./model.fp16.plan.json" in packed.getnames()


@pytest.mark.slow
def test_what_never_comes_holds_up_nothing_else(borrow: Borrow, tmp_path: Path) -> None:
    machine, sender = borrow(STEPS), Sender(tmp_path / "sender")
    machine.call(
        "--receive", sender.first, sender.sums, sender.unpack, sender.pieces[0],
        "--all-sent", "--start", "100",
    )  # fmt: skip
    said, _ = machine.report("60")
    assert machine.order() == ["quiet", "export", "hangs", "fails"]
    assert "not here: kit.01 kit.02;" in said
    assert "engine: needs trt-here" in said


def until(machine: Machine, step: str) -> None:
    """Wait for the end of a step."""
    given_up = time.monotonic() + 60
    while step not in [entry["step"] for entry in machine.steps()]:
        assert time.monotonic() < given_up
        time.sleep(0.1)
