"""What comes to the queue in pieces: damaged, lost, late and twice."""

import io
import tarfile
from pathlib import Path

import pytest

from tests.benchmarks.gpu_machine import Borrow, Sender, until

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


@pytest.mark.slow
def test_an_archive_that_comes_again_takes_nothing_away(borrow: Borrow, tmp_path: Path) -> None:
    machine, sender = borrow(""), Sender(tmp_path / "sender")
    machine.call("--receive", sender.first)
    model = machine.work / "model"
    (model / "model.onnx").write_bytes(b"exported")
    (machine.work / "done" / "export").touch()
    (model / "model.safetensors").write_bytes(b"as a step left it")
    assert "here already: first.tar.xz" in machine.call("--receive", sender.first)
    assert (model / "model.safetensors").read_bytes() == b"as a step left it"
    # Another archive is laid into the folders; it has no part in what the queue keeps for itself.
    own = {"done/later": b"", "deadline": b"7", "model/model.safetensors": b"new", "camvid/x": b"x"}
    said = machine.call("--receive", sender.archive(own))
    assert "left out, the queue's own: done of first.tar.xz" in said
    assert (model / "model.safetensors").read_bytes() == b"new"
    assert (model / "model.onnx").read_bytes() == b"exported"
    assert (machine.work / "camvid" / "x").is_file()
    assert [file.name for file in (machine.work / "done").iterdir()] == ["export"]
    assert not (machine.work / "deadline").exists()
    # One that was damaged on its way changes nothing.
    broken = sender.damaged(sender.archive({"model/model.safetensors": b"third"}))
    said = machine.call("--receive", broken, refused="xz")
    assert "damaged, or no room for it: first.tar.xz" in said
    assert (model / "model.safetensors").read_bytes() == b"new"


@pytest.mark.slow
def test_a_last_piece_that_was_damaged_is_awaited(borrow: Borrow, tmp_path: Path) -> None:
    machine, sender = borrow(STEPS.replace("sleep 600", "exit 3")), Sender(tmp_path / "sender")
    kit = sender.pieces
    machine.call(
        "--receive", sender.first, sender.sums, sender.unpack, kit[0], kit[1],
        sender.damaged(kit[2]), "--all-sent", "--start", "999", patience=100,
    )  # fmt: skip
    machine.report()
    until(machine, "fails")
    assert machine.order() == ["export", "hangs", "fails"]  # not what wants an idle machine
    assert "running: nothing, waiting" in machine.report()[0]
    machine.call("--receive", kit[2], patience=100)
    assert "the queue has ended" in machine.report("60")[0]
    assert {"engine", "quiet", "after-engine"} == set(machine.order()[3:])


@pytest.mark.slow
def test_a_piece_that_comes_after_the_end_wakes_the_queue(borrow: Borrow, tmp_path: Path) -> None:
    steps = STEPS.replace("sleep 600", "exit 3")
    steps += "backends | all-there | 0 | 9 | if [ -e ort/.unpacked ]; then echo ort; fi >> asked\n"
    machine, sender = borrow(steps), Sender(tmp_path / "sender")
    machine.call(
        "--receive", sender.first, sender.sums, sender.unpack, *sender.pieces[:2],
        "--all-sent", "--start", "100",
    )  # fmt: skip
    assert "engine: needs trt-here" in machine.report("60")[0]
    (machine.work / "ort").mkdir()
    (machine.work / "ort" / ".unpacked").touch()
    machine.call("--receive", sender.pieces[2])
    assert "the queue has ended" in machine.report("60")[0]
    assert set(machine.order()[4:]) == {"engine", "after-engine"}
    assert (machine.work / "asked").read_text() == "ort\n"
    assert [step["step"] for step in machine.steps()].count("backends") == 2
