"""Which rows of a bench are ranked together, in which order, and what is said first of them."""

from fcn_deploy.core.files import write_json
from fcn_deploy.core.run import Run
from fcn_deploy.results.bench_table import bench_groups
from fcn_deploy.results.read import read_results
from tests.result_files import (
    BASELINE,
    FAST,
    LEVEL,
    add_bench,
    described,
    rich_bench_document,
    row,
    verdict,
)


def test_groups_come_in_the_order_of_interest(run: Run) -> None:
    write_json(run.bench_folder / "a.json", rich_bench_document())
    groups = bench_groups(read_results(run).benches[0])
    assert [group.title for group in groups] == [
        *(f"single-stream, end-to-end, batch {size}, 320×480" for size in (1, 4, 16)),
        *(f"single-stream, host, batch {size}, 320×480" for size in (1, 4, 16)),
        "offline, host, batch 1, 320×480",
        "server, host, batch 1, 320×480",
    ]
    assert [group.leads for group in groups] == [True, *[False] * 5, True, True]
    assert groups[0].in_short == "fastest: trt fp32 on cuda:0 (H200), 400 images/s"


def test_no_first_is_named_where_two_tie(run: Run) -> None:
    add_bench(run, BASELINE, LEVEL, name="a")
    (group,) = bench_groups(read_results(run).benches[0])
    assert group.in_short.startswith("no clear first")


def test_only_rows_that_count_are_called_fastest(run: Run) -> None:
    def headline(*invalid: str) -> str:
        rows = [
            row(r.runner, *r.repeats_ms,
                loadgen=verdict("too short") if r.runner.backend in invalid else verdict())
            for r in (BASELINE, FAST, row(described("other"), 20.0, 20.5, 20.1))
        ]  # fmt: skip
        add_bench(run, *rows, name="a")
        (group,) = bench_groups(read_results(run).benches[0])
        return group.in_short

    assert headline().startswith("no clear first")
    assert headline("other") == "fastest: ort fp32, 50.0 images/s"
    assert headline("ort", "other") == "fastest: plain export, 24.4 images/s"
    assert headline("ort", "other", "baseline") == (
        "no row counts: MLPerf LoadGen calls each INVALID"
    )
