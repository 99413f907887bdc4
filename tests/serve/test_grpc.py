"""gRPC: NVIDIA's client and raw messages, on a service that HTTP is served from as well."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fcn_deploy.serve.server import Server
from fcn_deploy.serve.service import State
from fcn_deploy.serve.settings import Settings
from tests.fakes import FakeRunner
from tests.serve.clients import HeldRunner, masks, pictures
from tests.serve.live import live_server
from tests.serve.served import fake_process, served, until

triton = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient[grpc]")
grpc = pytest.importorskip("grpc")

from tritonclient.grpc import service_pb2 as pb  # noqa: E402

INFER = "/inference.GRPCInferenceService/ModelInfer"
SMALL = Settings(grpc_port=0, max_pixels=10_000)


@contextmanager
def opened(server: Server) -> Iterator[Any]:
    assert server.grpc is not None
    client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc.port}")
    try:
        yield client
    finally:
        client.close()


@contextmanager
def talking(settings: Settings = SMALL) -> Iterator[Any]:
    """NVIDIA's client of a server; in the end all that was asked has been answered and counted."""
    with live_server(FakeRunner(), settings, "fcn") as (_, server), opened(server) as client:
        yield client
    metrics = server.service.metrics
    assert metrics.accepted == metrics.answered
    assert 'route="grpc_' in metrics.text(ready=True).decode()
    server.service.take_memory(server.service.settings.max_memory_bytes)  # all is free


def tensor(images: NDArray[np.uint8], name: str = "image", datatype: str = "UINT8") -> Any:
    return triton.InferInput(name, images.shape, datatype)


def infer(client: Any, images: NDArray[np.uint8], **words: Any) -> NDArray[np.uint8]:
    given = tensor(images).set_data_from_numpy(images)
    mask: NDArray[np.uint8] = client.infer("fcn", [given], **words).as_numpy("mask")
    return mask


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """The status and the sentence with which a call is refused."""
    with pytest.raises((triton.InferenceServerException, grpc.RpcError)) as caught:
        call()
    error: Any = caught.value
    if isinstance(error, grpc.RpcError):
        return error.code().name, error.details()  # type: ignore[attr-defined]
    return str(error.status()).removeprefix("StatusCode."), error.message()


def test_nvidias_client_is_told_everything_it_asks() -> None:
    images = pictures(2, 9, 11)

    with talking() as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fcn")
        assert client.is_model_ready("fcn", "1")
        assert client.get_server_metadata().name == "fcn-deploy"
        metadata = client.get_model_metadata("fcn", "1")
        assert list(metadata.inputs[0].shape) == [-1, -1, -1, 3]
        config = client.get_model_config("fcn").config
        assert (config.name, config.max_batch_size) == ("fcn", 8)
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 64
        for version in ("", "1"):
            given = [tensor(images).set_data_from_numpy(images)]
            answer = client.infer("fcn", given, version, request_id="seven")
            assert np.array_equal(answer.as_numpy("mask"), masks(images))
            assert answer.get_response().id == "seven"
        wanted = [triton.InferRequestedOutput("mask")]
        assert np.array_equal(infer(client, images, outputs=wanted), masks(images))
        for name in ("", "fcn"):
            (counted,) = client.get_inference_statistics(name).model_stats
            assert counted.inference_stats.success.count == 3
            assert counted.inference_count == 6


def test_mixed_sizes_from_threads_get_their_own_masks() -> None:
    sizes = ((9, 11), (12, 7), (1, 1), (20, 30))

    with talking() as client:

        def one(index: int) -> bool:
            images = pictures(1 + index % 2, *sizes[index % 4], seed=index)
            return np.array_equal(infer(client, images), masks(images))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(one, range(80)))


def wrong(**changes: Any) -> Callable[[Any], Any]:
    """A call of NVIDIA's client with something wrong about it."""
    given = {"model": "fcn", "name": "image", "datatype": "UINT8", "shape": (1, 5, 7, 3)}
    given.update({name: changes.pop(name) for name in list(changes) if name in given})

    def call(client: Any) -> Any:
        kind = {"FP32": np.float32}.get(given["datatype"], np.uint8)
        images = np.zeros(given["shape"], kind)
        item = triton.InferInput(given["name"], images.shape, given["datatype"])
        return client.infer(given["model"], [item.set_data_from_numpy(images)], **changes)

    return call


def in_shared_memory(client: Any) -> Any:
    item = triton.InferInput("image", (1, 5, 7, 3), "UINT8")
    item.set_shared_memory("region", 105)
    return client.infer("fcn", [item])


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (wrong(model="other"), "NOT_FOUND", "no model 'other'"),
        (wrong(model_version="2"), "NOT_FOUND", "no version '2'"),
        (lambda client: client.is_model_ready("other"), "NOT_FOUND", "no model"),
        (lambda client: client.get_model_config("fcn", "3"), "NOT_FOUND", "no version"),
        (lambda client: client.get_inference_statistics("other"), "NOT_FOUND", "no model"),
        (wrong(name="picture"), "INVALID_ARGUMENT", "'image', not 'picture'"),
        (wrong(datatype="FP32"), "INVALID_ARGUMENT", "UINT8, not 'FP32'"),
        (wrong(shape=(5, 7, 3)), "INVALID_ARGUMENT", "must be [N, H, W, 3]"),
        (wrong(shape=(1, 5, 7, 4)), "INVALID_ARGUMENT", "3 channels"),
        (wrong(shape=(1, 0, 7, 3)), "INVALID_ARGUMENT", "N, H, W ≥ 1"),
        (wrong(shape=(9, 5, 7, 3)), "INVALID_ARGUMENT", "more than 8"),
        (wrong(shape=(1, 100, 101, 3)), "INVALID_ARGUMENT", "--max-pixels"),
        (wrong(shape=(1, 200, 200, 3)), "RESOURCE_EXHAUSTED", "larger than max"),
        (wrong(request_id="x" * 257), "INVALID_ARGUMENT", "256 letters"),
        (wrong(priority=1), "UNIMPLEMENTED", "schedule policy"),
        (wrong(sequence_id=1), "UNIMPLEMENTED", "sequences"),
        (wrong(parameters={"mood": 1}), "INVALID_ARGUMENT", "'mood'"),
        (wrong(compression_algorithm="gzip"), "UNIMPLEMENTED", "'gzip' is disabled"),
        (in_shared_memory, "UNIMPLEMENTED", "shared memory"),
        (
            wrong(outputs=[triton.InferRequestedOutput("mask", class_count=2)]),
            "UNIMPLEMENTED",
            "classification",
        ),
        (wrong(outputs=[triton.InferRequestedOutput("logits")]), "INVALID_ARGUMENT", "'logits'"),
        (lambda client: client.get_system_shared_memory_status(), "UNIMPLEMENTED", "Shared"),
        (lambda client: client.get_model_repository_index(), "UNIMPLEMENTED", "Repository"),
        (lambda client: client.get_log_settings(), "UNIMPLEMENTED", "LogSettings"),
    ],
)
def test_what_is_wrong_is_refused_with_a_status_and_a_sentence(
    client: Any, call: Callable[[Any], Any], status: str, words: str
) -> None:
    found, sentence = refusal(lambda: call(client))
    assert (found, words in sentence) == (status, True), sentence


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """A client of one server for all refusals, which takes a good request after them."""
    with talking() as asking:
        yield asking
        assert np.array_equal(infer(asking, pictures()), masks(pictures()))


def message(**changes: Any) -> Any:
    """A request as the protocol's own message."""
    images = pictures()
    item = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=images.shape)
    fields = {"model_name": "fcn", "inputs": [item], "raw_input_contents": [images.tobytes()]}
    return pb.ModelInferRequest(**{**fields, **changes})


def typed() -> bytes:
    item = pb.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=(1, 1, 1, 3))
    item.contents.uint_contents.extend((1, 2, 3))
    return bytes(message(inputs=[item], raw_input_contents=[]).SerializeToString())


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (typed(), "UNIMPLEMENTED", "raw_input_contents"),
        (message(raw_input_contents=[]).SerializeToString(), "INVALID_ARGUMENT", "has no raw"),
        (message(raw_input_contents=[b"ab"]).SerializeToString(), "INVALID_ARGUMENT", "not 2"),
        (message(raw_input_contents=[b"", b""]).SerializeToString(), "INVALID_ARGUMENT", "several"),
        (message(inputs=[]).SerializeToString(), "INVALID_ARGUMENT", "0 came"),
        (message().SerializeToString()[:-1], "INVALID_ARGUMENT", "cut off"),
        (b"\x3a", "INVALID_ARGUMENT", "cut off"),
        (b"\xff" * 12, "INVALID_ARGUMENT", "no ModelInferRequest"),
        (b"\x2a\x03abc", "INVALID_ARGUMENT", "no ModelInferRequest"),
        (b"\x08\x01", "INVALID_ARGUMENT", "no ModelInferRequest"),
        (b"\x2a\x00" * 33_000, "INVALID_ARGUMENT", "65536 bytes"),
        (b"", "NOT_FOUND", "no model ''"),
    ],
)
def test_a_damaged_message_is_refused(client: Any, sent: bytes, status: str, words: str) -> None:
    call = client._channel.unary_unary(INFER)
    found, sentence = refusal(lambda: call(sent))
    assert (found, words in sentence) == (status, True), sentence


def test_the_messages_of_other_calls_are_bounded(client: Any) -> None:
    call = client._channel.unary_unary("/inference.GRPCInferenceService/ModelConfig")
    assert refusal(lambda: call(bytes(70_000)))[0] == "INVALID_ARGUMENT"


def test_a_token_is_asked_for_before_the_message_is_read() -> None:
    headers = {"authorization": "Bearer secret"}

    with talking(Settings(grpc_port=0, max_pixels=10_000, token=b"secret")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        for given in ({}, {"authorization": "Bearer other"}, {"authorization": "secret"}):
            for call in (
                lambda given=given: infer(client, pictures(), headers=given),
                lambda given=given: client.get_model_config("fcn", headers=given),
                # Larger than any message may be: it is refused for the token all the same.
                lambda given=given: infer(client, pictures(1, 400, 400), headers=given),
            ):
                status, sentence = refusal(call)
                assert (status, "token" in sentence) == ("UNAUTHENTICATED", True)
        assert np.array_equal(infer(client, pictures(), headers=headers), masks(pictures()))


def test_a_message_that_does_not_come_is_not_waited_for() -> None:
    with talking(Settings(grpc_port=0, body_seconds=0.05)) as client:
        silent = client._channel.stream_unary(INFER)
        ended = threading.Event()
        never = iter(ended.wait, True)  # ends without a message, once the event is set
        try:
            assert refusal(lambda: silent(never))[0] == "DEADLINE_EXCEEDED"
        finally:
            ended.set()


@pytest.mark.anyio
async def test_a_full_queue_is_exhausted_and_an_ending_server_unavailable() -> None:
    runner = HeldRunner()
    async with served(Settings(grpc_port=0, max_queue=1), runner) as (_, server):
        runner.held = True
        with opened(server) as client:
            images = pictures(1, 4, 6)
            asked = [asyncio.create_task(asyncio.to_thread(infer, client, images))]
            await runner.begun()
            asked.append(asyncio.create_task(asyncio.to_thread(infer, client, images)))
            await until(lambda: server.service._batcher.waiting == 1)
            full = await asyncio.to_thread(refusal, lambda: infer(client, images))
            assert full[0] == "RESOURCE_EXHAUSTED"
            assert "1 requests are waiting" in full[1]
            runner.release(2)
            for mask in await asyncio.gather(*asked):
                assert np.array_equal(mask, masks(images))
            for state in (State.STARTING, State.CLOSED):
                server.service.state = state
                found = await asyncio.to_thread(refusal, lambda: infer(client, images))
                assert found[0] == "UNAVAILABLE"
                assert not await asyncio.to_thread(client.is_server_ready)
                assert not await asyncio.to_thread(client.is_model_ready, "fcn")
                assert await asyncio.to_thread(client.is_server_live)
            server.service.state = State.READY


@pytest.mark.anyio
async def test_a_request_whose_client_has_gone_is_not_computed() -> None:
    runner = HeldRunner()
    async with served(Settings(grpc_port=0), runner) as (_, server):
        runner.held = True
        with opened(server) as client:
            first = asyncio.create_task(asyncio.to_thread(infer, client, pictures(1)))
            await runner.begun()
            call = client._channel.unary_unary(INFER)
            gone = call.future(message().SerializeToString())
            await until(lambda: server.service._batcher.waiting == 1)
            gone.cancel()
            await until(lambda: not server.service._batcher.waiting)
            runner.release(2)
            assert np.array_equal(await first, masks(pictures(1)))
        assert runner.batches == [1]


@pytest.mark.anyio
async def test_draining_serves_on_and_the_end_waits_for_the_answers() -> None:
    runner = HeldRunner()
    async with served(Settings(grpc_port=0, drain_seconds=3600), runner) as (_, server):
        with opened(server) as client:
            server._stop()
            assert not await asyncio.to_thread(client.is_server_ready)
            assert np.array_equal(
                await asyncio.to_thread(infer, client, pictures()), masks(pictures())
            )
            runner.held = True
            last = asyncio.create_task(asyncio.to_thread(infer, client, pictures(2)))
            await runner.begun()
            server._stop()
            status = ""
            while status != "UNAVAILABLE":  # it listens no more
                status = await asyncio.to_thread(availability, client)
            assert not last.done()
            runner.release()
            assert np.array_equal(await last, masks(pictures(2)))
    metrics = server.service.metrics
    counted = metrics.text(ready=False).decode()
    assert '\nfcn_deploy_stage_seconds_count{stage="total"} 2.0\n' in counted
    assert metrics.accepted == metrics.answered


def availability(client: Any) -> str:
    try:
        client.is_server_live()
    except triton.InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


@pytest.mark.slow
@pytest.mark.parametrize("drain_seconds", [0, 0.3])
def test_a_signal_under_load_costs_no_accepted_call(drain_seconds: float) -> None:
    images = pictures(1, 32, 48)

    def hammer(port: int, found: list[str]) -> None:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        while True:
            try:
                mask = infer(client, images)
            except triton.InferenceServerException as error:
                found.append(str(error.status()))
                break
            assert np.array_equal(mask, images[..., 0])
            found.append("OK")
        client.close()

    with (
        fake_process(0.002, grpc_port=0, drain_seconds=drain_seconds) as server,
        ThreadPoolExecutor(8) as pool,
    ):
        found: list[str] = []
        port = server.events("listening")[0]["grpc_port"]
        asking = [pool.submit(hammer, port, found) for _ in range(8)]
        while len(found) < 200:
            assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.result()
        assert server.end() == 0
    (stopped,) = server.events("stopped")
    answered = [line for line in server.events("request") if line["status"] == "OK"]
    print(f"{stopped}; received { ({status: found.count(status) for status in set(found)}) }")
    assert stopped["accepted"] == stopped["answered"] >= found.count("OK")
    assert len(answered) == found.count("OK") >= 200
    # gRPC's core cancels what comes while it closes, before it is read.
    assert set(found) <= {"OK", "StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"}
