"""The queue for a borrowed machine, rehearsed: steps that hang and fail, a deadline, a kill."""

import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from tests.benchmarks.gpu_machine import Borrow, wait_for


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
        """
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
        """
    )
    machine.run()
    assert [step["exit_code"] for step in machine.steps()] == [124, 137, 0]
    for name in ("pid", "deaf-pid"):
        assert machine.has_ended(name)


def test_what_a_step_leaves_behind_does_not_share_the_gpu_with_the_next(borrow: Borrow) -> None:
    machine = borrow(
        """\
        leaves | | 0 | 9 | sleep 600 & echo $! > pid
        next | | 0 | 9 | [ "$(cut -d' ' -f3 "/proc/$(cat pid)/stat" || echo Z)" = Z ]
        """
    )
    machine.run()
    assert [step["exit_code"] for step in machine.steps()] == [0, 0]


@pytest.mark.slow
def test_a_step_in_which_the_queue_was_killed_has_its_turn_again(borrow: Borrow) -> None:
    machine = borrow(
        """\
        first | | 0 | 60 | echo first >> order
        cut | done/first | 0 | 60 | echo cut >> order; [ -e go ] || { echo $$ > pid; sleep 600; }
        """
    )
    machine.call("--start", "60", "--all-sent")
    wait_for(lambda: (machine.work / "pid").exists())
    os.kill(int((machine.work / "queue.pid").read_text()), signal.SIGKILL)
    assert "the queue does not run" in machine.report()[0]
    (machine.work / "go").touch()
    machine.call("--start", "60")
    assert "the queue has ended" in machine.report("30")[0]
    assert machine.has_ended("pid")
    assert machine.order() == ["first", "cut", "cut"]
    steps = machine.steps()
    assert [(s["step"], s["exit_code"]) for s in steps] == [("first", 0), ("cut", 137), ("cut", 0)]
    assert steps[1]["interrupted"]


@pytest.mark.slow
def test_what_is_asked_for_while_the_queue_ends_is_done(borrow: Borrow, tmp_path: Path) -> None:
    machine = borrow("one | | 0 | 60 | echo one >> order\n")
    # The last thing that the queue does with its lock held is to pack: there it is stopped.
    tar = tmp_path / "bin" / "tar"
    tar.parent.mkdir()
    tar.write_text(
        '#!/bin/bash\ncase "$*" in *-czf*)\n'
        f"[ ! -e {tmp_path}/hold ] || {{ touch {tmp_path}/held; while [ -e {tmp_path}/hold ]; "
        'do sleep 0.05; done; }\nesac\nexec /usr/bin/env -S PATH="${PATH#*:}" tar "$@"\n'
    )
    tar.chmod(0o755)
    (machine.work / "done").mkdir(parents=True)
    (machine.work / "done" / "one").touch()  # it has had its turn: the queue packs and ends
    (tmp_path / "hold").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tar.parent}:{os.environ['PATH']}")
        machine.call("--all-sent", "--start", "60")
        wait_for(lambda: (tmp_path / "held").exists())
        machine.call("--again", "one")
        (tmp_path / "hold").unlink()
        wait_for(lambda: (machine.work / "order").exists())
    assert "the queue has ended" in machine.report("30")[0]
    assert machine.order() == ["one"]


@pytest.mark.slow
def test_a_deadline_that_has_passed_leaves_the_steps_unrun(borrow: Borrow) -> None:
    machine = borrow("one | | 0 | 60 | echo one >> order\n")
    machine.call("--all-sent", "--start", "0")
    said, _ = machine.report("30")
    assert "the queue has ended" in said
    assert "one: too little time" in said
    assert not (machine.work / "order").exists()
    # A deadline that was damaged is none to work towards.
    (machine.work / "deadline").write_text("soon")
    assert "left: 0 s" in machine.report()[0]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (("--start", "-5"), "usage: queue.sh WORK"),
        (("--start", "10x"), "usage: queue.sh WORK"),
        (("--start",), "usage: queue.sh WORK"),
        (("--report", "x", "y"), "usage: queue.sh WORK"),
        (("--report",), "usage: queue.sh WORK"),
        (("--again", "one"), "no queue was started: --start SECONDS first"),
        (("--receive", "/nonexistent"), "no such file: /nonexistent"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: tuple[str, ...], refused: str, borrow: Borrow
) -> None:
    borrow("one | | 0 | 60 | true\n").call(*words, refused=refused, code=2)


def test_a_step_that_there_is_not_has_no_other_turn(borrow: Borrow) -> None:
    machine = borrow("one | | 0 | 60 | true\n")
    machine.work.mkdir()
    (machine.work / "deadline").write_text("1")
    machine.call("--again", "two", refused="has no step two", code=2)


def test_long_logs_come_back_by_their_end(borrow: Borrow) -> None:
    machine = borrow("long | | 0 | 60 | head -c 3M /dev/zero | tr '\\\\0' x; echo the end\n")
    machine.run()
    said, folder = machine.report()
    assert len(said) < 5000
    with tarfile.open(folder / "results.tgz") as packed:
        member = packed.getmember("./long.end.log")
        file = packed.extractfile(member)
        assert file is not None
        assert member.size == 1 << 20
        assert file.read().endswith(b"the end\n")
        assert "./long.log" not in packed.getnames()
    # Of a former report nothing stays beside a new one.
    (folder / "results.tgz.0").touch()
    machine.call("--report", folder)
    assert sorted(file.name for file in folder.iterdir()) == ["results.tgz"]


@pytest.mark.slow
def test_results_beyond_what_may_come_back_leave_the_largest(borrow: Borrow) -> None:
    machine = borrow("large | | 0 | 60 | head -c 61M /dev/urandom > $out/large.bin\n")
    machine.run()
    said, folder = machine.report()
    assert "more than 60 MiB of results: the largest files stay in" in said
    with tarfile.open(folder / "results.tgz") as packed:
        assert "steps.jsonl" in packed.getnames()
        assert "large.bin" not in packed.getnames()


def test_a_folder_with_a_space_is_refused(borrow: Borrow, tmp_path: Path) -> None:
    machine = borrow("")
    machine.work = tmp_path / "two words"
    machine.call("--start", "9", refused="give folders without spaces", code=2)
    assert not machine.work.exists()


def test_what_a_build_left_half_done_comes_back(borrow: Borrow) -> None:
    machine = borrow("")
    machine.run()
    engines = machine.work / "engines"
    engines.mkdir()
    for name in (
        "a b.plan", "a b.plan.json", "a b.plan.unverified", "a b.1f3a9c02.plan.unverified",
        "c.plan.unverified", "c.plan.unverified.json", "d.logits.fp16.plan",
    ):  # fmt: skip
        (engines / name).write_text(name)
    _, folder = machine.report()
    with tarfile.open(folder / "engines.tar.0") as packed:
        assert sorted(packed.getnames()) == [
            "engines/a b.plan", "engines/a b.plan.json", "engines/c.plan.unverified",
            "engines/c.plan.unverified.json", "engines/d.logits.fp16.plan",
        ]  # fmt: skip


@pytest.mark.slow
def test_the_deadline_is_kept(borrow: Borrow) -> None:
    machine = borrow(
        """\
        endless | | 1 | 600 | sleep 600
        next | | 1 | 600 | echo next >> order
        """
    )
    machine.call("--start", "4")
    said, folder = machine.report("60")
    assert "the queue has ended" in said
    assert "next: too little time" in said
    (step,) = machine.steps(folder / "results.tgz")
    assert step["exit_code"] == 124
    assert step["limit"] <= 4
    assert step["left"] <= 0
