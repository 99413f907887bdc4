"""What a runner is, in result files: optional fields, and files that were written without them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcn_deploy.core.errors import ArtifactError
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.runner import GraphCounts, RunnerDescription
from tests.result_files import described


def read(values: dict[str, Any]) -> RunnerDescription:
    return RunnerDescription.from_fields(Fields(values, Path("bench.json"), "measure again"))


def test_counts_of_cuda_graphs_are_written_and_read() -> None:
    counted = replace(described("trt"), cuda_graphs=GraphCounts(recorded=3, refused=1))
    values = json.loads(json.dumps(counted.to_json()))
    assert values["cuda_graphs"] == {"recorded": 3, "refused": 1}
    assert read(values).cuda_graphs == counted.cuda_graphs


def test_a_file_without_counts_is_read_and_written_as_it_was() -> None:
    values = json.loads(json.dumps(described("ort").to_json()))
    assert "cuda_graphs" not in values
    assert read(values).cuda_graphs is None
    assert json.loads(json.dumps(read(values).to_json())) == values


def test_note_tail_and_portability_are_written_where_there_is_one() -> None:
    assert not {"note", "tail", "portable"} & described("trt").to_json().keys()
    noted = replace(
        described("trt"), note="its header says nothing", tail="tournament", portable="ampere+"
    )
    assert read(json.loads(json.dumps(noted.to_json()))) == noted


def test_damaged_counts_are_named() -> None:
    values = json.loads(json.dumps(described("trt").to_json()))
    values["cuda_graphs"] = {"recorded": 3, "refused": "none"}
    with pytest.raises(ArtifactError, match=r"cuda_graphs\.refused is not a whole number"):
        read(values)


def test_a_runner_is_the_same_however_often_it_has_recorded() -> None:
    one, other = (replace(described("trt"), cuda_graphs=GraphCounts(n, 0)) for n in (1, 2))
    assert one == other
    assert hash(one) == hash(other)
