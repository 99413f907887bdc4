"""The fastest backend that was proven here, for these files, within what the user allows."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fcn_deploy.core.files import read_json
from fcn_deploy.core.spec import Precision
from fcn_deploy.results.bench import BenchRow
from fcn_deploy.results.environment import Environment
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.parity import ParityFile
from fcn_deploy.results.proven import ProvenChoice, Unproven, choose_proven
from fcn_deploy.results.runner import RunnerDescription
from fcn_deploy.results.scenarios import END_TO_END, HOST, OFFLINE
from tests.result_files import bare_row, described, measured_bench

ORT, NCNN = described("ort"), described("ncnn")
HALF = described("ort", Precision.FP16)
SLOW_REPEATS, FAST_REPEATS = (20.0, 20.2, 20.1, 20.3, 19.9, 20.0), (10.0, 10.2, 10.1, 9.9, 10.0, 10)
Proof = Callable[..., ParityFile]


@pytest.fixture(scope="module")
def proof(compared: Path) -> Proof:
    """Give a parity file for one candidate: passed or failed, here or on another machine."""
    path = compared / "ort.json"
    fields = Fields(read_json(path, ""), path, "")
    made = ParityFile.from_fields(fields, Environment.from_fields(fields, "parity/ort.json"))
    (passing,) = made.comparisons

    def give(
        runner: RunnerDescription, *, passed: bool = True, elsewhere: bool = False
    ) -> ParityFile:
        checks = tuple(replace(check, passed=passed) for check in passing.checks)
        environment = replace(made.environment, file=f"parity/{runner.backend}.json")
        if elsewhere:
            environment = replace(environment, machine={**environment.machine, "cpu": "Other"})
        comparison = replace(passing, candidate=runner, checks=checks)
        return replace(made, environment=environment, comparisons=(comparison,))

    return give


def timed(runner: RunnerDescription, *repeats: float, tier: str = END_TO_END) -> BenchRow:
    return bare_row(runner, repeats, tier=tier)


def choose(
    parity_files: list[ParityFile], *benches: list[BenchRow], kinds: tuple[str, ...] = ("fp32",)
) -> ProvenChoice | Unproven:
    return choose_proven(
        parity_files,
        [measured_bench(*rows) for rows in benches],
        kinds=kinds,
        is_current=lambda runner: runner.digest == "sha256:fake",
    )


def chosen(
    parity_files: list[ParityFile], *benches: list[BenchRow], kinds: tuple[str, ...] = ("fp32",)
) -> ProvenChoice:
    """The same, where there is one."""
    found = choose(parity_files, *benches, kinds=kinds)
    assert isinstance(found, ProvenChoice), found
    return found


BOTH = [timed(ORT, *SLOW_REPEATS), timed(NCNN, *FAST_REPEATS)]


def test_the_fastest_whose_gate_passed_is_taken_and_says_why(proof: Proof) -> None:
    found = chosen([proof(ORT), proof(NCNN)], BOTH)
    assert (found.backend, found.precision, found.rivals) == ("ncnn", Precision.FP32, 2)
    assert found.over_default == pytest.approx(2, rel=0.05)
    assert "the fastest of 2" in str(found)
    assert "parity/ncnn.json" in str(found)
    assert "2 × as fast as ort" in str(found)


def test_a_faster_one_without_a_passed_gate_is_not_taken(proof: Proof) -> None:
    for others in ([], [proof(NCNN, passed=False)], [proof(NCNN), proof(NCNN, passed=False)]):
        assert chosen([proof(ORT), *others], BOTH).backend == "ort"


def test_a_gate_that_passes_after_it_failed_counts(proof: Proof) -> None:
    assert chosen([proof(ORT), proof(NCNN, passed=False), proof(NCNN)], BOTH).backend == "ncnn"


def test_a_tie_is_ort_s(proof: Proof) -> None:
    hardly = (19.0, 21.0, 19.5, 20.5, 19.9, 20.1)
    found = chosen([proof(ORT), proof(NCNN)], [timed(ORT, *SLOW_REPEATS), timed(NCNN, *hardly)])
    assert found.backend == "ort"
    assert found.over_default is None
    assert "; of 2 proven here none is faster beyond the noise: same masks by" in str(found)


def test_other_precisions_are_taken_only_where_they_are_allowed(proof: Proof) -> None:
    proofs = [proof(ORT), proof(HALF)]
    rows = [timed(ORT, *SLOW_REPEATS), timed(HALF, *FAST_REPEATS)]
    narrow, wide = chosen(proofs, rows), chosen(proofs, rows, kinds=("fp32", "fp16"))
    assert (narrow.runner, wide.runner) == (ORT, HALF)
    assert wide.precision is Precision.FP16
    assert choose(proofs, rows, kinds=("int8",)) is Unproven.NOT_ALLOWED


def test_bf16_is_computed_from_the_float32_file(proof: Proof) -> None:
    bf16 = replace(described("openvino-bf16"), precision="bf16", arithmetic="bf16")
    rows = [timed(ORT, *SLOW_REPEATS), timed(bf16, *FAST_REPEATS)]
    found = chosen([proof(ORT), proof(bf16)], rows, kinds=("fp32", "bf16"))
    assert (found.backend, found.precision) == ("openvino-bf16", Precision.FP32)


def test_float32_as_products_of_8_bits_must_be_allowed_by_name(proof: Proof) -> None:
    split = replace(described("openvino-int8x3"), arithmetic="int8x3")
    rows = [timed(ORT, *SLOW_REPEATS), timed(split, *FAST_REPEATS)]
    proofs = [proof(ORT), proof(split)]
    narrow, wide = chosen(proofs, rows), chosen(proofs, rows, kinds=("fp32", "int8x3"))
    assert (narrow.backend, wide.backend) == ("ort", "openvino-int8x3")


def test_why_nothing_is_proven(proof: Proof) -> None:
    assert choose([], BOTH) is Unproven.NOTHING
    assert choose([proof(ORT, passed=False)], BOTH) is Unproven.NOTHING
    assert choose([proof(ORT, elsewhere=True)], BOTH) is Unproven.ELSEWHERE
    changed = replace(ORT, digest="sha256:before")
    assert choose([proof(changed)], [timed(changed, *SLOW_REPEATS)]) is Unproven.OTHER_FILE
    assert choose([proof(ORT)]) is Unproven.NOT_TIMED
    assert choose([proof(ORT)], [timed(ORT, 5, 5, tier=HOST)]) is not Unproven.NOT_TIMED
    offline = replace(timed(ORT, 5, 5), scenario=OFFLINE)
    assert choose([proof(ORT)], [offline]) is Unproven.NOT_TIMED


def test_what_another_machine_found_later_changes_nothing_here(proof: Proof) -> None:
    # Of the same CPU and as many cores, and with another memory.
    there = proof(NCNN, passed=False)
    machine = {**there.environment.machine, "memory_gib": 1}
    there = replace(there, environment=replace(there.environment, machine=machine))
    assert chosen([proof(ORT), proof(NCNN), there], BOTH).backend == "ncnn"


def test_what_is_from_the_future_proves_nothing(proof: Proof) -> None:
    future = proof(NCNN)
    future = replace(future, environment=replace(future.environment, created="2999-01-01T00:00:00"))
    found = chosen([proof(ORT), proof(NCNN, passed=False), future], BOTH)
    assert found.backend == "ort"
    assert choose([future], BOTH) is Unproven.FUTURE


def test_figures_of_another_machine_choose_nothing(proof: Proof) -> None:
    bench = measured_bench(*BOTH)
    other = replace(bench.environment, machine={**bench.environment.machine, "cores": 64})
    found = choose_proven(
        [proof(ORT), proof(NCNN)],
        [replace(bench, environment=other)],
        kinds=("fp32",),
        is_current=lambda runner: True,
    )
    assert found is Unproven.NOT_TIMED


def test_a_library_of_another_release_is_another_runner(proof: Proof) -> None:
    newer = replace(NCNN, library="fake 2.0")
    assert chosen([proof(ORT), proof(newer)], BOTH).backend == "ort"


def test_a_quick_look_at_one_backend_does_not_hide_the_bench_of_all(proof: Proof) -> None:
    assert chosen([proof(ORT), proof(NCNN)], BOTH, [timed(ORT, 1.0, 1.0)]).backend == "ncnn"
