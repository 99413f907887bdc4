"""The bench table: its columns, what stands in them, and its output on a terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fcn_deploy.commands import bench_tables
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import Bench, BenchRow
from fcn_deploy.results.bench_table import (
    BenchGroup,
    Table,
    bench_groups,
    cold_start_table,
    stage_table,
)
from fcn_deploy.results.scenarios import HOST, SERVER
from tests.result_files import (
    BASELINE,
    FAST,
    SLOW,
    bare_row,
    cold_start,
    described,
    measured_bench,
    row,
)
from tests.result_files import verdict as loadgen_verdict


def group_of(*rows: BenchRow, **changes: object) -> BenchGroup:
    (group,) = bench_groups(measured_bench(*rows, **changes))
    return group


def titles(table: Table) -> list[str]:
    return [column.title for column in table.columns]


def column(table: Table, title: str) -> dict[str, str]:
    """Return runner → text of a column."""
    place = titles(table).index(title)
    return {str(row.cells[0]): str(row.cells[place]) for row in table.rows}


def test_rows_are_fastest_first_with_their_spread() -> None:
    table = group_of(BASELINE, SLOW, FAST).table
    assert column(table, "ms, median [spread]") == {
        "ort fp32": "20.0 [20.0–20.5]",
        "plain export": "41.0 [40.0–42.0]",
        "torch fp32": "82.0 [80.0–85.0]",
    }
    assert [row.is_baseline for row in table.rows] == [False, True, False]


def test_the_ratio_is_a_figure_a_tie_or_a_word() -> None:
    level = row(described("ncnn"), 41.0, 40.0, 43.0)
    table = group_of(BASELINE, FAST, SLOW, level).table
    assert column(table, "× plain export") == {
        "ort fp32": "2.00 [2.00–2.10]",
        "plain export": "1",
        "ncnn fp32": "tie [0.976–1.02]",
        "torch fp32": "0.500 [0.482–0.512]",
    }
    assert column(group_of(FAST).table, "× plain export") == {"ort fp32": "no baseline"}


def test_columns_stand_where_some_row_has_a_figure_for_them() -> None:
    plain = group_of(BASELINE, SLOW).table
    assert titles(plain) == [
        "runner", "ms, median [spread]", "images/s", "× plain export", "LoadGen", "p90, ms",
        "library", "CV", "queries",
    ]  # fmt: skip
    assert column(plain, "p90, ms") == {"plain export": "34.8", "torch fp32": "too few"}
    served = [
        row(
            described(name), 20.0, 21.0, 20.0, queries=700, tier=HOST, scenario=SERVER,
            loadgen=loadgen_verdict(*why, target_p99_ms=100.0), energy=0.8,
        )
        for name, why in (("ort", ()), ("torch", ("p99 is beyond its bound",)))
    ]  # fmt: skip
    table = group_of(*served).table
    assert set(titles(table)) - set(titles(plain)) == {
        "p99 bound, ms", "p95, ms", "p99, ms", "J/image",
    }  # fmt: skip
    assert column(table, "LoadGen") == {
        "ort fp32": "VALID", "torch fp32": "INVALID: p99 is beyond its bound",
    }  # fmt: skip
    assert column(table, "p99 bound, ms")["ort fp32"] == "100"
    assert column(table, "J/image")["ort fp32"] == "0.800"


def test_masks_and_other_networks_stand_beside() -> None:
    other = row(described("peer:fcn_resnet50"), 900.0, 950.0, 920.0)
    elsewhere = row(described("peer:fcn_resnet50"), 900.0, 950.0, 920.0, tier=HOST)
    masks = {"baseline fp32": 1.0, "ort fp32": 0.99996, "torch fp32": 1.0}
    group = group_of(BASELINE, FAST, SLOW, masks=masks, references=(other, elsewhere))
    assert column(group.table, "masks agree") == {
        "ort fp32": "99.996%",
        "plain export": "100%",
        "torch fp32": "the reference",
        "peer:fcn_resnet50 fp32": "another network",
    }
    assert column(group.table, "× plain export")["peer:fcn_resnet50 fp32"] == "not ranked"
    assert group.ties == ()
    assert len(group.rows) == 3


def test_stages_and_cold_starts_are_tables_too() -> None:
    stages = stage_table([BASELINE, FAST])
    assert stages is not None
    assert column(stages, "compute") == {"plain export": "24.0", "ort fp32": "12.0"}
    assert column(stages, "sum − wall") == {"plain export": "-0.9%", "ort fp32": "-0.9%"}
    assert stage_table([row(described("ort"), 1.0, 1.0, 1.1, tier=HOST)]) is None
    engine = described("trt", Precision.FP16, "cuda:0 (H200)")
    starts = cold_start_table(
        [cold_start(described("ort")), cold_start(engine, cold_start_ms=None, error="no GPU")]
    )
    assert starts is not None
    assert column(starts, "cold start, ms") == {
        "ort fp32": "812", "trt fp16 on cuda:0 (H200)": "n/a",
    }  # fmt: skip
    assert [row.problem for row in starts.rows] == ["", "no GPU"]
    assert "4×320×480" in starts.title
    assert cold_start_table([]) is None


@pytest.fixture
def measured() -> Bench:
    verdict = replace(loadgen_verdict(), early_stopping_ms=44.4)
    names = ("baseline", "openvino-int8x3", "torch")
    rows = [
        row(described(name), ms, 1.02 * ms, 1.01 * ms, queries=700, loadgen=verdict)
        for name, ms in zip(names, (71.2, 31.6, 98.9), strict=True)
    ]
    return measured_bench(*rows, cold_starts=(cold_start(described("trt"), error="no GPU"),))


def printed(bench: Bench, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False, highlight=False, soft_wrap=True)
    monkeypatch.setattr(bench_tables, "console", console)
    bench_tables.print_bench(bench)
    return text.getvalue()


def test_a_wide_terminal_shows_every_column(
    measured: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(measured, 200, monkeypatch)
    (group,) = bench_groups(measured)
    assert all(title in text for title in titles(group.table))
    assert "fake 1.0" in text
    assert "no cold start of trt fp32: no GPU" in text
    assert "VALID means at least 0.5 s and 64 queries a repeat" in text


def test_a_narrow_terminal_shows_what_matters_most_unbroken(
    measured: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(measured, 100, monkeypatch)
    table = text[: text.index("mean ms per query")]
    (line,) = [line for line in table.splitlines() if line.strip().startswith("openvino-int8x3")]
    for figure in ("31.9 [31.6–32.2]", "31.3", "2.25 [2.25–2.25]", "VALID, p90 ≤ 44.4"):
        assert figure in line
    assert "queries" not in table
    assert "library" not in table
    assert max(map(len, table.splitlines())) <= 100


def test_rows_that_lost_repeats_are_named() -> None:
    def measured(backend: str, *numbers: int) -> BenchRow:
        made = bare_row(described(backend), [10.0 + number for number in numbers])
        return replace(made, repeat_numbers=numbers)

    whole, few = measured("ort", *range(7)), measured("torch", 0, 1, 2, 4)
    brackets = "Brackets behind a ratio hold its 95 % interval, from the repeats in pairs."
    lost = (
        "torch fp32 has 4 of 7 repeats and shares 4 with another row: "
        "too few repeats for a verdict (at least 5)."
    )

    def notes(*rows: BenchRow) -> list[str]:
        return [note for note in group_of(*rows).notes if not note.startswith("× PyTorch")]

    assert notes(whole) == notes(whole, measured("ncnn", *range(7))) == [brackets]
    assert notes(whole, few) == [lost]  # it lost more than the other
    assert notes(whole, few, measured("ncnn", 0, 1, 2, 3, 4, 5)) == [brackets, lost]
    # Each of them has five pairs with the fastest, and three with the other.
    both = notes(whole, measured("ncnn", 0, 1, 2, 3, 4), measured("torch", 2, 3, 4, 5, 6))
    assert [note.split(" shares ")[-1][:1] for note in both[1:]] == ["3", "3"]
    assert notes(measured("ort", 0, 1, 2), measured("ncnn", 0, 1, 2)) == [
        "3 repeats: too few repeats for a verdict (at least 5)."
    ]
