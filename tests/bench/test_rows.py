"""What a row says of its repeats: percentiles and LoadGen's verdict."""

from fcn_deploy.bench.rows import MIN_QUERIES, percentiles, timing, verdict_of_repeats
from fcn_deploy.results.bench import LoadGenVerdict, Settings
from fcn_deploy.results.ranking import RATE_RESOLUTION
from fcn_deploy.results.scenarios import SERVER, SINGLE_STREAM


def test_a_row_says_which_repeats_it_has() -> None:
    found = timing({0: 12.0, 2: 10.0, 3: 11.0}, SINGLE_STREAM, 4)
    assert found["repeat_numbers"] == (0, 2, 3)
    assert (found["median_ms"], found["spread_ms"]) == (11.0, (10.0, 12.0))
    assert found["images_per_s"] == 4000 / 11
    served = timing({0: 12.0, 2: 10.0, 3: 11.0}, SERVER, 4)
    assert served["spread_ms"] == (10.0 / (1 + RATE_RESOLUTION), 12.0)  # its rate is known no finer


def test_percentiles_need_their_number_of_queries() -> None:
    assert percentiles(range(63)) == {"mean": 31, "p50": 31}
    assert percentiles(range(1, 101)) == {"mean": 50.5, "p50": 50.5, "p90": 90}
    assert percentiles(range(200, 0, -1)) == {"mean": 100.5, "p50": 100.5, "p90": 180, "p95": 190}
    assert set(percentiles(range(662))) == {"mean", "p50", *MIN_QUERIES}


def test_one_invalid_repeat_makes_a_row_invalid() -> None:
    good = LoadGenVerdict(True, early_stopping_ms=2.0)
    bad = LoadGenVerdict(False, problems=("too short",))
    found = verdict_of_repeats([good, bad, bad])
    assert found == LoadGenVerdict(False, early_stopping_ms=2.0, problems=("too short",))
    assert verdict_of_repeats([]) is None


def test_the_least_that_a_repeat_was_asked_for_is_kept() -> None:
    found = verdict_of_repeats(
        [LoadGenVerdict(True, settings=Settings(0.5, queries, 8)) for queries in (640, 64, 320)]
    )
    assert found is not None
    assert found.settings == Settings(0.5, 64, 8)
