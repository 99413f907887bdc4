"""A borrowed machine, on which ``benchmarks/gpu/queue.sh`` runs, and what is sent to it."""

import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

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

    def call(
        self, *words: str | Path, patience: int = 0, refused: str = "", code: int | None = None
    ) -> str:
        result = subprocess.run(
            ["bash", SCRIPTS / "queue.sh", self.work, *words],
            capture_output=True, text=True, timeout=120, check=False,
            env={
                **os.environ, "STEPS": str(self._steps), "SPARE": "0", "GRACE": "1",
                "PATIENCE": str(patience),
            },
        )  # fmt: skip
        assert refused in result.stderr
        assert code in (None, result.returncode)
        assert refused or result.stderr == ""
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
        for name in ("queue.pid", "step.pid", "pieces/kit.pid"):
            with suppress(FileNotFoundError, ProcessLookupError):
                os.killpg(int((self.work / name).read_text()), signal.SIGKILL)

    def has_ended(self, name: str) -> bool:
        """Tell whether the process whose number is in a file has ended."""
        stat = Path("/proc", (self.work / name).read_text().strip(), "stat")
        # Ended, or ended and not asked for its exit code yet.
        return not stat.exists() or stat.read_text().split()[2] == "Z"


Borrow = Callable[[str], Machine]


class Sender:
    """What is sent: the first archive, and a Python in three pieces with their checksums."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self.first = self.archive({"model/model.safetensors": b"weights"})
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

    def archive(self, files: dict[str, bytes]) -> Path:
        """Write the first archive, or another one of its name."""
        return self._file("first.tar.xz", self._packed(files, "xz"))

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


def wait_for(condition: Callable[[], bool]) -> None:
    given_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < given_up
        time.sleep(0.05)


def until(machine: Machine, step: str) -> None:
    """Wait for the end of a step."""
    wait_for(lambda: step in [entry["step"] for entry in machine.steps()])
