"""What the report's tables say of results."""

from __future__ import annotations

from fcn_deploy.core.run import Run
from fcn_deploy.report.tables import distance_words, margin_words, most_flips
from fcn_deploy.results.read import read_results
from tests.result_files import AddParity


def test_flips_in_words(run: Run, add_parity: AddParity) -> None:
    add_parity(run, "swapped")
    (comparison,) = read_results(run).comparisons
    shown, (others, flips) = most_flips(comparison)
    assert sum(pair.flips for pair in shown) + flips == comparison.flips
    assert others == max(0, len(comparison.by_class) - 8)
    assert [margin_words(b, comparison.epsilon) for b in comparison.by_margin] == [
        "0–0.5 ε", "0.5–1 ε", "1–2 ε", "beyond 2 ε",
    ]  # fmt: skip
    assert margin_words(comparison.by_margin[-1], None) == "any"
    assert [distance_words(bucket) for bucket in comparison.by_distance] == [
        "1 px", "2 px", "3 px", "4–8 px", "9–16 px", "17 px and more",
    ]  # fmt: skip
