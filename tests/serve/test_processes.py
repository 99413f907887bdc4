"""Servers in processes of their own: a real network, too much load, signals in the middle.

``FCN_DEPLOY_SERVE_LONG=1`` takes the numbers that the documentation names.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fcn_deploy.serve.tensors import HEADER_LENGTH
from tests.command_line import FcnDeploy
from tests.serve.clients import binary_request, pictures
from tests.serve.served import (
    ROOT,
    Process,
    Response,
    exchange,
    fake_process,
    process,
    read_response,
    request,
    statuses,
    until,
)

LONG = os.environ.get("FCN_DEPLOY_SERVE_LONG") == "1"
PICTURES, SIGNALS, SECONDS = (1000, 20, 60) if LONG else (40, 2, 5)
SIZES = ((48, 64), (97, 131), (64, 96), (33, 160))

pytestmark = pytest.mark.slow


def write_pictures(folder: Path) -> list[Path]:
    folder.mkdir()
    files = []
    for index in range(PICTURES):
        generator = np.random.default_rng(index)
        height, width = SIZES[index % len(SIZES)]
        small = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        files.append(folder / f"{index:04}.png")
        Image.fromarray(small).resize((width, height)).save(files[-1])
    return files


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Call ``work`` with 0, …, each in a thread; an error of any is raised here."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_tritonclient_gets_the_masks_of_predict(
    fcn_deploy: FcnDeploy, tiny_folder: Path, tmp_path: Path
) -> None:
    tritonclient = pytest.importorskip("tritonclient.http")
    files = write_pictures(tmp_path / "pictures")
    fcn_deploy("predict", tiny_folder, tmp_path / "pictures", "--out", tmp_path / "out").succeeded()
    model = tiny_folder.name

    def infer(client: Any, image: np.ndarray[Any, Any]) -> Any:
        tensor = tritonclient.InferInput("image", list(image[None].shape), "UINT8")
        tensor.set_data_from_numpy(image[None])
        return client.infer(model, [tensor]).as_numpy("mask")[0]

    with process("fcn_deploy", "serve", tiny_folder, "--port", "0", "--threads", "1") as server:
        url = f"127.0.0.1:{server.port}"

        def ask(index: int) -> None:
            client = tritonclient.InferenceServerClient(url)
            for file in files[index::8]:
                mask = infer(client, np.asarray(Image.open(file)))
                expected = np.asarray(Image.open(tmp_path / "out" / file.name))
                assert np.array_equal(mask, expected), file
            client.close()

        in_threads(8, ask)
        client = tritonclient.InferenceServerClient(url)
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(model)
        assert client.is_model_ready(model, "1")
        assert client.get_server_metadata()["name"] == "fcn-deploy"
        assert client.get_model_metadata(model)["inputs"][0]["name"] == "image"
        assert client.get_model_config(model)["max_batch_size"] == 8
        (statistics,) = client.get_inference_statistics(model)["model_stats"]
        assert statistics["inference_stats"]["success"]["count"] == PICTURES
        print(f"{PICTURES} masks as predict's, in {statistics['execution_count']} batches")
        for call in (
            client.get_model_repository_index,
            client.get_system_shared_memory_status,
            client.get_log_settings,
            client.get_trace_settings,
        ):
            with pytest.raises(tritonclient.InferenceServerException, match="nothing here"):
                call()
        with pytest.raises(tritonclient.InferenceServerException, match="no model 'other'"):
            client.get_model_metadata("other")
        client.close()
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0


def test_the_examples_of_the_documentation_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tritonclient.http")
    pytest.importorskip("tritonclient.grpc")
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL)
    examples = [code for kind, code in blocks if kind == "python"]
    (command,) = [code.removeprefix("$ ") for kind, code in blocks if kind == "console"]
    assert len(examples) == 3
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pictures(1, 40, 60)[0]).save("photo.jpg")
    expected = np.asarray(Image.open("photo.jpg"))[..., 0]
    with fake_process(0, grpc_port=0) as server:
        grpc = f"127.0.0.1:{server.events('listening')[0]['grpc_port']}"
        here = f"127.0.0.1:{server.port}"
        names: dict[str, Any] = {}
        for code in examples:
            names.pop("mask", None)
            exec(code.replace("127.0.0.1:8000", here).replace("127.0.0.1:8001", grpc), names)
            assert np.array_equal(names["mask"], expected)
        if shutil.which("curl"):
            words = shlex.split(command.replace("127.0.0.1:8000", here))
            answer = subprocess.run(words, capture_output=True, check=True, timeout=60)
            assert json.loads(answer.stdout)["outputs"][0]["data"] == [0, 255]


def body(height: int, width: int) -> bytes:
    content, length = binary_request(pictures(1, height, width))
    return request(content, f"{HEADER_LENGTH}: {length}")


async def hammer(port: int, content: bytes, over: asyncio.Event, found: list[Response]) -> None:
    """Send one request after another over one connection, which is opened anew when it ends."""
    while not over.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:  # the server listens no more
            return
        while not over.is_set():
            writer.write(content)
            response = await read_response(reader)
            if response.status == 0:
                break
            found.append(Response(response.status, response.headers, b""))
        writer.close()


@asynccontextmanager
async def hammered(port: int, content: bytes, connections: int) -> AsyncIterator[list[Response]]:
    """Load a server over so many connections during the block; gives what they receive."""
    found: list[Response] = []
    over = asyncio.Event()
    clients = [asyncio.create_task(hammer(port, content, over, found)) for _ in range(connections)]
    yield found
    over.set()
    await asyncio.gather(*clients)


def memory(process_id: int) -> int:
    """The resident memory of a process, in MB."""
    status = Path(f"/proc/{process_id}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) // 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read in /proc")
def test_too_much_load_gives_503_and_nothing_else() -> None:
    """128 connections on a queue of 16, before a runner that takes 100 ms for a batch."""

    async def load(server: Process) -> tuple[list[Response], list[int], str]:
        sizes = []
        async with hammered(server.port, body(320, 480), 128) as found:
            for _ in range(SECONDS):
                await asyncio.sleep(1)
                sizes.append(memory(server.process.pid))
        text = await exchange(server.port, b"GET /metrics HTTP/1.1\r\n\r\n")
        return found, sizes, text.body.decode()

    with fake_process(0.1, max_queue=16, drain_seconds=0) as server:
        found, sizes, text = asyncio.run(load(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0
    counts = statuses(found)
    print(f"{counts} in {SECONDS} s; memory {sizes[0]} to {max(sizes)} MB, at last {sizes[-1]} MB")
    assert set(counts) == {200, 503}
    assert counts[200] >= SECONDS * 5
    assert all("retry-after" in r.headers for r in found if r.status == 503)
    assert f'fcn_deploy_requests_total{{code="200",route="infer"}} {counts[200]}.0' in text
    (stopped,) = server.events("stopped")
    assert stopped["accepted"] == stopped["answered"]
    assert max(sizes) < 450  # not the thousands of bodies that were refused


@pytest.mark.parametrize("turn", range(SIGNALS))
def test_a_signal_in_the_middle_of_the_load_costs_no_accepted_request(turn: int) -> None:
    async def load(server: Process) -> list[Response]:
        async with hammered(server.port, body(32, 48), 24) as found:
            await until(lambda: len(found) >= 200)
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: server.process.poll() is not None)
        return found

    with fake_process(0.002, drain_seconds=turn % 2 * 0.3) as server:
        found = asyncio.run(load(server))
        assert server.end() == 0
    (stopped,) = server.events("stopped")
    print(f"accepted, answered: {stopped}; received {statuses(found)}")
    assert stopped["accepted"] == stopped["answered"] == len(found)
    assert set(statuses(found)) <= {200, 503}
