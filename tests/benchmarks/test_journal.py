"""The script that measures how a journal of millions of lines is resumed."""

from pathlib import Path

import pytest

from benchmarks import journal
from fcn_deploy.predict import selection


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells a process's memory")
def test_what_is_left_of_a_simulated_run_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "CHECKED_UP_TO", 0)  # the pictures are not there
    monkeypatch.setattr(journal, "AT_ONCE", 700)
    journal.made(tmp_path / "simulated", 3000)
    found = journal.resumed(tmp_path / "simulated")
    assert (found["lines"], found["left"]) == (2000, journal.LEFT)
    assert found["seconds"] > 0
    assert found["peak_mib"] > 1
