"""Figures and verdicts in words."""

from dataclasses import replace

import pytest

from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.format import gate_words, number, percent, verdict_words
from fcn_deploy.results.read import read_results
from tests.result_files import FAST, add_bench, described, verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"), (0, "0"), (2.345, "2.35"), (9.996, "10.0"), (999.9, "1,000"),
        (123456, "123,000"), (0.04567, "0.0457"), (0.00012345, "0.000123"), (1e-7, "1.00e-07"),
        (-1.5, "-1.50"), (1.79e308, "1.79e+308"),
    ],
)  # fmt: skip
def test_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "n/a"), (0, "0%"), (1, "100%"), (0.5, "50.0%"), (0.99961, "99.961%"),
        (0.999999, "99.9999%"), (0.9999999999, "99.99999999%"), (0.0001, "0.0100%"),
        (2e-6, "0.000200%"), (5.4e-7, "<0.0001%"),
    ],
)  # fmt: skip
def test_percentages_never_round_up_to_all(share: float | None, text: str) -> None:
    shown = percent(share)
    assert shown == text


@pytest.mark.parametrize("widened", [True, False])
def test_halves_computed_in_float32_prove_nothing_of_a_gpu(widened: bool) -> None:
    candidate = described("ort", Precision.FP16)
    candidate = replace(candidate, arithmetic="fp32" if widened else "fp16")
    limits = "; computed in float32 here: says nothing of a GPU's rounding" if widened else ""
    assert gate_words(candidate, 1, 101, labelled=True) == (
        f"same masks (gate passed on 101 pictures and odd sizes{limits})"
    )
    assert gate_words(candidate, 0.998, 1, labelled=False) == (
        "masks within the fp16 gate "
        f"(99.8% of the pixels agree on 1 picture and odd sizes, none labelled{limits})"
    )


def test_what_loadgen_says(run: Run) -> None:
    rows = [
        FAST,
        replace(FAST, loadgen=verdict()),
        replace(FAST, loadgen=verdict("it was too short")),
    ]
    add_bench(run, *rows)
    (measured,) = read_results(run).benches
    said = [verdict_words(entry) for entry in measured.rows]
    assert said == ["timed loop", "VALID", "INVALID: it was too short"]
