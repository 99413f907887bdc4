"""Journal: predictions.jsonl, what a run has done, and what the next one need not do again.

The first line is the head: the model, by digest, precision and backend, and what else decides what
the files of a run are.  It stands there once and not in every line, because a journal is of one
model: another one is refused when it is opened.  Each further line is of one picture, appended
whole by one write after the picture's mask has its name.  What a kill leaves of a line is cut off
when the journal is opened again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fcn_deploy.core.errors import InputError
from fcn_deploy.core.files import write_error
from fcn_deploy.machine.description import utc_now
from fcn_deploy.predict.journal_head import (
    JournalHead,
    head_of,
    other_heads,
    reading,
    same_count,
)
from fcn_deploy.predict.journal_lines import Finished, Hashes, listed_mask, read_blocks
from fcn_deploy.predict.shard import Shard
from fcn_deploy.results.predictions import HEAD_BYTES

_NO_HASHES: Hashes = np.zeros(0, np.uint64)


def journal_name(shard: Shard | None) -> str:
    """Return the name of a journal in the folder of the masks."""
    return f"predictions{_part(shard)}.jsonl"


def _part(shard: Shard | None) -> str:
    return "" if shard is None else f".{shard.index}-of-{shard.count}"


class Journal(AbstractContextManager["Journal"]):
    """The journal of one run in the folder of its masks.

    Args:
        out: the folder of the masks.
        shard: the part of the pictures that the run does.
        resume: whether what its journal holds counts as finished.

    Attributes:
        path: the file.
        was_there: whether there was one before.
        finished: the pictures that count as finished; none unless ``resume``.
        cut_off: whether a line was found that a kill had torn.
        damaged: lines that are none of ours; they are dropped.
        opened_ns: when :meth:`begin` was called, by the clock of the file system.

    Raises:
        InputError: another run writes it.
        ArtifactError: it cannot be read, or is none.
    """

    def __init__(self, out: Path, shard: Shard | None, *, resume: bool) -> None:
        self.path = out / journal_name(shard)
        #: Where masks are written before they get their names; what a kill leaves lies there.
        self.unfinished = out / f".predictions{_part(shard)}.unfinished"
        self._shard = shard
        self._resume = resume
        self._lock = threading.Lock()
        self._file: BinaryIO | None = _locked(self.path)
        self.was_there = self._file is not None
        self.cut_off = False
        self.damaged = 0
        self.opened_ns = 0
        self._own_head: JournalHead | None = None
        try:
            self.finished = self._read() if resume else Finished(_NO_HASHES, _NO_HASHES)
        except BaseException:
            self.close()
            raise

    @property
    def begun_ns(self) -> int | None:
        """When the journal that is resumed was begun; None where none is."""
        return None if self._own_head is None else self._own_head.begun_ns

    def model(self) -> JournalHead | None:
        """Return the head of the journal, or of another in the folder; None where a run begins.

        What it names is the model by which this run can go on.
        """
        if self._own_head is not None:
            return self._own_head
        return next(iter(other_heads(self.path).values()), None)

    def _others(self) -> list[Path]:
        """Return the journals that may hold our pictures: not other parts of the same whole."""
        heads = other_heads(self.path).items()
        return [file for file, head in heads if not same_count(head.shard, self._shard)]

    def require_free(self, masks: Collection[str]) -> None:
        """Refuse masks that a journal lists as those of other pictures.

        Args:
            masks: that are there, of pictures that have no line.

        Raises:
            InputError: one belongs to a picture of another name.
        """
        own = [self.path] if self._own_head is not None else []
        for file in [*own, *self._others()] if masks else []:
            with reading(file), file.open("rb") as stream:
                stream.readline(HEAD_BYTES)
                found = listed_mask(stream, masks)
            if found is not None:
                raise InputError(
                    f"{self.path.parent / found[1]} is the mask of {found[0]}, says {file}, and "
                    "would be that of a picture of another name",
                    "choose another folder with --out, or name the pictures as they were then",
                )

    def _read(self) -> Finished:
        keys, states = [_NO_HASHES], [_NO_HASHES]
        for file in self._others():
            with reading(file), file.open("rb") as stream:
                stream.readline(HEAD_BYTES)
                self._read_lines(stream, keys, states)
        if self._file is not None:
            with reading(self.path):
                self._cut_off()
                self._own_head = head_of(self._file.readline(HEAD_BYTES), self.path)
                self.damaged = self._read_lines(self._file, keys, states)
        return Finished(np.concatenate(keys), np.concatenate(states))

    @staticmethod
    def _read_lines(stream: BinaryIO, keys: list[Hashes], states: list[Hashes]) -> int:
        damaged = 0
        for lines in read_blocks(stream):
            keys.append(lines.keys[lines.whole])
            states.append(lines.states[lines.whole])
            damaged += int(np.count_nonzero(~lines.whole))
        return damaged

    def _cut_off(self) -> None:
        """Cut off what stands behind the last whole line."""
        assert self._file is not None
        end = self._file.seek(0, os.SEEK_END)
        whole = end
        while whole:
            begin = max(0, whole - (1 << 16))
            self._file.seek(begin)
            newline = self._file.read(whole - begin).rfind(b"\n")
            if newline >= 0:
                whole = begin + newline + 1
                break
            whole = begin
        if whole < end:
            self.cut_off = True
            self._file.truncate(whole)
        self._file.seek(0)

    def begin(self, head: JournalHead, redone: Hashes = _NO_HASHES) -> None:
        """Make the journal ready to be appended to.

        Args:
            head: of this run.
            redone: keys whose lines are dropped, since these pictures are done again.

        Raises:
            InputError: this journal, or another of the folder, is of another model.
            ArtifactError: it cannot be written.
        """
        self._require_same(head)
        try:
            self.unfinished.mkdir(parents=True, exist_ok=True)
            if self._own_head is None:
                self._begin_anew(head)
            elif self.damaged or len(redone):
                self._replace(self._own_head.line(), redone)
            _empty(self.unfinished)  # by now no other run has it
            self.opened_ns = self._file_system_time()
            assert self._file is not None
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise write_error(self.path, error, flags="--out") from error

    def _begin_anew(self, head: JournalHead) -> None:
        """Write a journal of no pictures; of runs that do so at the same moment, one succeeds."""
        is_first = self._file is None
        try:
            whole = replace(
                head,
                shard=None if self._shard is None else str(self._shard),
                begun_ns=self._file_system_time(),
                created=utc_now(),
            )
            self._replace(whole.line(), None)
        except (FileExistsError, FileNotFoundError) as error:
            if is_first:  # the other run has its journal, or has emptied the hidden folder
                raise _busy(self.path) from error
            raise
        try:
            self._require_others(head)  # one may have begun at the same moment
        except InputError:
            self.path.unlink()  # each would refuse the other for ever
            raise

    def _file_system_time(self) -> int:
        """Return the time that a file written now has; a server's clock may not be ours."""
        stamp = self.unfinished / f"begun.{secrets.token_hex(4)}"
        stamp.touch()
        now = stamp.stat().st_mtime_ns
        stamp.unlink()
        return now

    def _require_same(self, head: JournalHead) -> None:
        own = self._own_head
        if own is not None:
            if not own.same_masks(head):
                raise _of_another(self.path, own, head, "drop --resume")
            if own.overlay != head.overlay:
                raise InputError(
                    f"the run of {self.path} was begun {'with' if own.overlay else 'without'} "
                    "--overlay",
                    f"{'add' if own.overlay else 'drop'} --overlay, or drop --resume to compute "
                    "all anew",
                )
        self._require_others(head)

    def _require_others(self, head: JournalHead) -> None:
        for file, other in other_heads(self.path).items():
            if not other.same_masks(head):
                raise _of_another(file, other, head, "delete that file")

    def _replace(self, head: bytes, redone: Hashes | None) -> None:
        """Write the journal anew, whole or not at all.

        Args:
            head: its first line.
            redone: keys of which no line is kept; None: no line is.
        """
        temporary = self.unfinished / f"{secrets.token_hex(4)}.jsonl"
        with temporary.open("xb") as stream:
            stream.write(head)
            if redone is not None:
                assert self._file is not None
                self._file.seek(0)
                self._file.readline(HEAD_BYTES)
                for lines in read_blocks(self._file):
                    kept = lines.whole & ~np.isin(lines.keys, redone)
                    for start, end in _runs(lines.starts[kept], lines.ends[kept]):
                        stream.write(lines.content[start:end])
            stream.flush()
            os.fsync(stream.fileno())
        taken = temporary.open("r+b", buffering=0)
        try:
            _lock(taken, self.path)
            if self._file is None:
                _name_first(temporary, self.path)
            else:
                os.replace(temporary, self.path)
                self._file.close()
        except BaseException:
            taken.close()
            with suppress(OSError):
                temporary.unlink()
            raise
        self._file = taken

    def append(self, line: bytes) -> None:
        """Append a line; threads may do so at once.

        Raises:
            ArtifactError: the disk is full, for example; nothing of the line is left then.
        """
        assert self._file is not None
        with self._lock:
            try:
                written = self._file.write(line)
                if written != len(line):
                    self._file.seek(-(written or 0), os.SEEK_CUR)
                    self._file.truncate()
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise write_error(self.path, error, flags="--out") from error

    def close(self) -> None:
        """Close the file, so that another run may have it."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with suppress(OSError):  # what is left in it, the next run removes
                self.unfinished.rmdir()

    def __exit__(self, *error: object) -> None:
        self.close()


def _runs(starts: Any, ends: Any) -> list[tuple[int, int]]:
    """Return pieces that follow one another without a gap as one."""
    if not len(starts):
        return []
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    first = np.concatenate(([0], breaks))
    last = np.concatenate((breaks, [len(starts)])) - 1
    return list(zip(starts[first].tolist(), ends[last].tolist(), strict=True))


def _of_another(file: Path, listed: JournalHead, head: JournalHead, anew: str) -> InputError:
    """Return why a journal's masks are not taken for those of a run, and what to do."""
    kind, this = "another model", "this one"
    if replace(listed, reading=head.reading).same_masks(head):
        kind, this = "other options", "these"
    go_on = ""
    if listed.digest == head.digest:
        without = f" and without {head.reading}" if head.reading and not listed.reading else ""
        go_on = f"go on with {listed.options}{without}, "
    return InputError(
        f"the masks that {file} lists are of {kind} ({listed.words}), not of {this} ({head.words})",
        f"{go_on}choose another folder with --out, or {anew} to compute all anew",
    )


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)


def _name_first(written: Path, target: Path) -> None:
    """Give a file its name where nothing has that name.

    Raises:
        FileExistsError: something has.
    """
    try:
        os.link(written, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(written, target)
    else:
        written.unlink()


def _locked(path: Path) -> BinaryIO | None:
    """Open a journal that is there, for this run alone; None where there is none."""
    while True:
        try:
            file = path.open("r+b", buffering=0)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise write_error(path, error, flags="--out") from error
        _lock(file, path)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # it was replaced between the two


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock a journal, where the system and the file system can do so."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise _busy(path) from error
    except OSError:  # a file system without locks
        return


def _busy(path: Path) -> InputError:
    return InputError(
        f"another run of predict writes {path}", "wait for its end, or choose another --out"
    )
