"""Open Inference over HTTP: what clients may ask, and every way to ask it wrongly."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.core.errors import BackendError
from fcn_deploy.core.input_shape import InputShape
from fcn_deploy.runners.base import Outputs
from fcn_deploy.serve import tensors
from fcn_deploy.serve.settings import Settings
from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.fakes import FAKE_SPEC, FakeRunner
from tests.serve.clients import (
    INFER,
    ask,
    binary_request,
    error_of,
    get,
    json_request,
    mask_of,
    masks,
    pictures,
    post,
)

IMAGES = pictures(2)


def post_fields(fields: Any) -> httpx.Response:
    return post(json.dumps(fields))


def post_binary(body: tuple[bytes, int], path: str = INFER) -> httpx.Response:
    content, length = body
    return post(content, path, **{HEADER_LENGTH: str(length)})


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_the_model_is_described_with_and_without_its_version(version: str) -> None:
    model = f"/v2/models/fcn{version}"
    metadata = get(model).json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert metadata["outputs"] == [{"name": "mask", "datatype": "UINT8", "shape": [-1, -1, -1]}]
    assert (metadata["name"], metadata["versions"]) == ("fcn", ["1"])
    config = get(f"{model}/config").json()
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == [-1, -1, 3]
    assert config["parameters"]["classes"]["string_value"].split("\n") == list(
        FAKE_SPEC.class_names
    )
    assert get(f"{model}/ready").json() == {"name": "fcn", "ready": True}
    (statistics,) = get(f"{model}/stats").json()["model_stats"]
    assert (statistics["name"], statistics["inference_stats"]["success"]["count"]) == ("fcn", 0)
    assert np.array_equal(
        mask_of(post_binary(binary_request(IMAGES), f"{model}/infer")), masks(IMAGES)
    )


def test_the_server_is_described() -> None:
    assert get("/v2").json()["name"] == "fcn-deploy"
    assert get("/v2/health/live").status_code == get("/v2/health/ready").status_code == 200


def test_statistics_count_requests_pictures_and_batches() -> None:
    async def talk(asked: Any) -> Any:
        await asked.infer(IMAGES)
        await asked.infer(pictures(1))
        return (await asked.http.get("/v2/models/stats")).json()

    (found,) = ask(talk)["model_stats"]
    assert (found["inference_count"], found["execution_count"]) == (3, 2)
    assert found["inference_stats"]["success"]["count"] == 2
    assert [entry["batch_size"] for entry in found["batch_stats"]] == [1, 2]
    assert found["last_inference"] > 0


def test_binary_pixels_give_a_binary_mask() -> None:
    response = post_binary(binary_request(IMAGES, id="seven"))
    assert np.array_equal(mask_of(response), masks(IMAGES))
    fields = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])
    assert (fields["model_name"], fields["model_version"], fields["id"]) == ("fcn", "1", "seven")
    assert response.headers["content-type"] == "application/octet-stream"


def test_pixels_in_json_give_a_mask_in_json_flat_or_nested() -> None:
    for fields in (json_request(IMAGES), json_request(IMAGES, data=IMAGES.tolist())):
        response = post_fields(fields)
        assert response.headers["content-type"] == "application/json"
        assert np.array_equal(mask_of(response), masks(IMAGES))


@pytest.mark.parametrize(
    ("changes", "binary"),
    [
        ({"parameters": {"binary_data_output": False}}, False),
        ({"outputs": [{"name": "mask"}]}, False),
        ({"outputs": [{"name": "mask"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "mask", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [{"name": "mask", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
        ({"outputs": []}, False),
    ],
)
def test_the_output_itself_decides_before_the_request(
    changes: dict[str, Any], binary: bool
) -> None:
    response = post_fields({**json_request(IMAGES), **changes})
    assert (HEADER_LENGTH in response.headers) is binary
    assert np.array_equal(mask_of(response), masks(IMAGES))


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_compressed_bodies_are_read(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body, length = binary_request(IMAGES)
    named = {HEADER_LENGTH: str(length), "content-encoding": encoding}
    assert np.array_equal(mask_of(post(compress(body), **named)), masks(IMAGES))
    for damaged in (compress(body)[:-3], compress(body) + b"more", body):
        assert encoding in error_of(post(damaged, **named), 400)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    response = post(bomb, settings=Settings(max_pixels=1000), content_encoding="gzip")
    assert "more than" in error_of(response, 413)


def test_another_encoding_is_refused() -> None:
    assert "Content-Encoding br" in error_of(post(b"", content_encoding="br"), 415)


def test_extensions_are_refused_by_name() -> None:
    def refused(**changes: Any) -> str:
        return error_of(post_fields({**json_request(IMAGES), **changes}), 400)

    classification = [{"name": "mask", "parameters": {"classification": 3}}]
    assert "'classification'" in refused(outputs=classification)
    assert "'sequences'" in refused(parameters={"sequence_id": 3})
    assert "'wishes'" in refused(parameters={"wishes": 3})
    assert "'hopes'" in refused(hopes=[])
    shared = {"shared_memory_region": "one", "shared_memory_byte_size": IMAGES.size}
    body = json_request(IMAGES, parameters=shared)
    assert "'shared memory'" in error_of(post_fields(body), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/fcn/versions/2/config", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", "/v2/repository/index", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/v2/", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
    ],
)
def test_what_is_not_there_is_an_error_in_json(method: str, path: str, status: int) -> None:
    response = ask(lambda asked: asked.http.request(method, path))
    assert error_of(response, status)
    assert ("allow" in response.headers) is (status == 405)


BROKEN: dict[str, dict[str, Any]] = {
    "no inputs": {"inputs": None},
    "two inputs": {"inputs": [{}, {}]},
    "input is text": {"inputs": ["image"]},
    "other name": {"name": "picture"},
    "other type": {"datatype": "FP32"},
    "shape of three": {"shape": [5, 7, 3]},
    "shape of text": {"shape": ["2", 5, 7, 3]},
    "shape of bools": {"shape": [True, 5, 7, 3]},
    "shape of floats": {"shape": [2.0, 5, 7, 3]},
    "negative shape": {"shape": [-2, -5, 7, 3]},
    "empty shape": {"shape": [0, 5, 7, 3]},
    "four channels": {"shape": [2, 5, 7, 4]},
    "other shape": {"shape": [2, 7, 7, 3]},
    "huge shape": {"shape": [1, 2**40, 1, 3]},
    "no size": {"parameters": {}},
    "wrong size": {"parameters": {"binary_data_size": 3}},
    "size of text": {"parameters": {"binary_data_size": "210"}},
    "bytes missing": {"data": b"\0" * 209},
    "bytes over": {"data": b"\0" * 211},
    "outputs are text": {"outputs": "mask"},
    "other output": {"outputs": [{"name": "logits"}]},
    "output twice": {"outputs": [{"name": "mask"}, {"name": "mask"}]},
    "id is a number": {"id": 7},
    "long id": {"id": "x" * 1000},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_request_is_refused_with_a_sentence(kind: str) -> None:
    error_of(post_binary(binary_request(IMAGES, **BROKEN[kind])), 400)


@pytest.mark.parametrize(
    "data",
    [
        [], *([value] * 210 for value in (256, -1, 0.5, "0", None, [0])),
        [True] + [0] * 209, [0] * 209, 7,
    ],
)  # fmt: skip
def test_wrong_values_in_json_are_refused(data: Any) -> None:
    error_of(post_fields(json_request(IMAGES, data=data)), 400)


def test_ragged_values_are_refused() -> None:
    ragged = IMAGES.tolist()
    ragged[0][0], ragged[0][1] = ragged[0][0][:-1], [*ragged[0][1], [1, 2, 3]]
    assert "nested" in error_of(post_fields(json_request(IMAGES, data=ragged)), 400)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000]
)
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    error_of(post(content), 400)


@pytest.mark.parametrize("length", ["0", "-1", "x", "1e3", "999999", "9" * 30, "", "\u0663"])
def test_a_wrong_header_length_is_refused(length: str) -> None:
    content, _ = binary_request(IMAGES)
    error_of(post(content, **{HEADER_LENGTH: length.encode()}), 400)


def test_a_network_of_limited_sizes_refuses_the_others() -> None:
    shape = InputShape(multiple=32, smallest=32)
    runner = FakeRunner(replace(FAKE_SPEC, input_shape=shape))
    response = ask(lambda asked: asked.infer(IMAGES), runner)
    assert "multiples of 32" in error_of(response, 400)


def test_a_network_of_one_batch_size_is_given_that() -> None:
    def response(images: NDArray[np.uint8]) -> httpx.Response:
        runner = FakeRunner(replace(FAKE_SPEC, input_shape=InputShape(batch=2)))
        return ask(lambda asked: asked.infer(images), runner)

    assert "batches of 2" in error_of(response(pictures(1)), 400)
    assert np.array_equal(mask_of(response(IMAGES)), masks(IMAGES))


def test_a_failure_of_the_backend_is_said() -> None:
    def fail(images: NDArray[np.uint8], outputs: Outputs) -> Outputs:
        if len(images) == 2:
            raise BackendError("it is broken")
        return outputs

    response = ask(lambda asked: asked.infer(IMAGES), FakeRunner(bug=fail))
    assert "it is broken" in error_of(response, 500)


def test_a_bug_of_ours_is_for_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(tensors, "render", fail)
    assert "secret" not in error_of(post_binary(binary_request(IMAGES)), 500)
    assert "a secret" in caplog.text
