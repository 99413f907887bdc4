"""Our repositories in the real tritonserver: loaded as they are, warmed up, asked by its client.

Its ONNX backend in C++ is not in the wheel: :mod:`tests.triton.stand_in` takes its place.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from fcn_deploy.cli import fcn_deploy as command
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec
from fcn_deploy.runners.base import open_runner
from tests.foreign_networks import foreign_run, noise
from tests.triton import environment
from tests.triton.server import TritonServer, running

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
pytestmark = pytest.mark.slow

REQUESTS, THREADS = 640, 16
SIZES = ((48, 64), (64, 48), (33, 47), (97, 131), (20, 30), (64, 96), (1, 1), (75, 50))
FIXED = (2, 40, 56)


@pytest.fixture(scope="module")
def server_environment() -> Iterator[Path]:
    """The environment with the server: one that was named, or one for this session."""
    named = os.environ.get(environment.VARIABLE)
    with tempfile.TemporaryDirectory(prefix="fcn-deploy-triton-") as folder:
        made = Path(named or folder)
        try:
            if not named:
                environment.install(made)
            environment.stub_of(made)
        except environment.NoServerError as problem:
            pytest.skip(f"tritonserver cannot be had here: {problem}")
        yield made


def package(run: Path, out: Path, *words: str) -> Path:
    """Write a repository by the command."""
    done = CliRunner().invoke(command, ["package", "triton", str(run), "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def fixed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of another tool that takes one shape alone."""
    run = Run(tmp_path_factory.mktemp("runs") / "fixed")
    foreign_run(run, batch=FIXED[0], size=FIXED[1:])
    return run.root


@pytest.fixture(scope="module")
def server(
    server_environment: Path,
    tiny_folder: Path,
    fixed_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonServer]:
    """A server with fcn and fixed as they were written, and two that were changed by hand.

    wrong says that pictures have four channels; patient waits until four requests are there.
    """
    folder = tmp_path_factory.mktemp("served")
    repositories = [
        package(tiny_folder, folder / "good", "--name", "fcn"),
        package(fixed_run, folder / "fixed"),
        package(tiny_folder, folder / "wrong", "--name", "wrong", "--max-batch", "2"),
        package(tiny_folder, folder / "patient", "--name", "patient"),
    ]
    config = folder / "wrong" / "wrong" / "config.pbtxt"
    changed = config.read_text().replace("dims: [ -1, -1, 3 ]", "dims: [ -1, -1, 4 ]")
    # Its warm-up would be refused as well, and the model not loaded.
    config.write_text(changed.partition("model_warmup")[0])
    config = folder / "patient" / "patient" / "config.pbtxt"
    waits = f"max_queue_delay_microseconds: {10**9}\n  preferred_batch_size: [ 4 ]"
    config.write_text(config.read_text().replace("max_queue_delay_microseconds: 0", waits))
    with running(server_environment, repositories, folder) as started:
        yield started


@pytest.fixture
def client(server: TritonServer) -> Iterator[Any]:
    """NVIDIA's client, asking the server."""
    opened = triton.InferenceServerClient(server.http)
    yield opened
    opened.close()


def infer(client: Any, model: str, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = triton.InferInput("image", pictures.shape, "UINT8").set_data_from_numpy(pictures)
    mask: NDArray[np.uint8] = client.infer(model, [image]).as_numpy("mask")
    return mask


def masks_of(run: Path, pictures: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Return the masks that the backend `ort` gives."""
    with open_runner(Run(run), "ort") as runner:
        return [runner.run(picture).mask for picture in pictures]


def test_it_is_warmed_up_before_it_is_ready(server: TritonServer, tiny_spec: ModelSpec) -> None:
    # First of all tests here: what was executed until now nobody has asked for.
    executed = server.executed()
    sizes = tiny_spec.image_sizes
    expected = {f"1x{h}x{w}x3" for h, w in (sizes.smallest, sizes.typical, sizes.largest)}
    expected.add("8x{}x{}x3".format(*sizes.typical))
    assert expected <= set(executed)
    assert set(executed) - expected == {"x".join(map(str, (*FIXED, 3)))}


def test_mixed_requests_from_many_threads_get_the_right_masks(
    server: TritonServer, tiny_folder: Path
) -> None:
    pictures = [noise(1, *SIZES[index % len(SIZES)]) for index in range(len(SIZES) * 4)]
    for index, picture in enumerate(pictures):
        np.random.default_rng(index).shuffle(picture, axis=2)
    expected = masks_of(tiny_folder, pictures)
    assert len({int(value) for mask in expected for value in np.unique(mask)}) > 1

    def ask(thread: int) -> list[NDArray[np.uint8]]:
        client = triton.InferenceServerClient(server.http)
        places = range(thread, REQUESTS, THREADS)
        answers = [infer(client, "fcn", pictures[place % len(pictures)]) for place in places]
        client.close()
        return answers

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(ask, range(THREADS)))
    given = 0
    for thread, masks in enumerate(answers):
        for place, mask in zip(range(thread, REQUESTS, THREADS), masks, strict=True):
            np.testing.assert_array_equal(mask, expected[place % len(pictures)])
            given += 1
    print(f"{given} of {REQUESTS} masks right")
    assert given == REQUESTS
    counted = re.search(
        r'nv_inference_request_success\{model="fcn",version="1"\} (\d+)', server.read_metrics()
    )
    assert counted is not None
    assert int(counted[1]) >= REQUESTS


def test_requests_of_one_size_are_run_together(server: TritonServer, tiny_folder: Path) -> None:
    pictures = [np.roll(noise(1, 41, 43), index, axis=1) for index in range(4)]
    expected = masks_of(tiny_folder, pictures)

    def ask(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        client = triton.InferenceServerClient(server.http, network_timeout=120)
        mask = infer(client, "patient", picture)
        client.close()
        return mask

    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(ask, pictures))
    for mask, right in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mask, right)
    assert [shape for shape in server.executed() if shape.endswith("x41x43x3")] == ["4x41x43x3"]


def test_a_network_of_one_shape_takes_that_alone(client: Any, fixed_run: Path) -> None:
    pictures = noise(*FIXED)
    (expected,) = masks_of(fixed_run, [pictures])
    np.testing.assert_array_equal(infer(client, "fixed", pictures), expected)
    with pytest.raises(triton.InferenceServerException, match=r"unexpected shape"):
        infer(client, "fixed", noise(1, *FIXED[1:]))
    with pytest.raises(triton.InferenceServerException, match=r"unexpected shape"):
        infer(client, "fixed", noise(2, 41, 56))


def test_the_core_holds_requests_against_the_configuration(client: Any) -> None:
    with pytest.raises(triton.InferenceServerException) as refusal:
        infer(client, "wrong", noise(1, 48, 64))
    print(refusal.value)
    assert "[-1,-1,-1,4]" in str(refusal.value)
    assert "[1,48,64,3]" in str(refusal.value)
    with pytest.raises(triton.InferenceServerException, match="batch-size must be <= 8"):
        infer(client, "fcn", noise(9, 48, 64))


def test_metadata_configuration_and_labels_are_known(client: Any, tiny_spec: ModelSpec) -> None:
    metadata = client.get_model_metadata("fcn")
    assert metadata["platform"] == "onnxruntime_onnx"
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert metadata["outputs"] == [{"name": "mask", "datatype": "UINT8", "shape": [-1, -1, -1]}]
    config = client.get_model_config("fcn")
    assert config["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 128
    # Triton's own use of labels: the place of the largest value, here of the only one.
    image = triton.InferInput("image", (1, 1, 1, 3), "UINT8").set_data_from_numpy(noise(1, 1, 1))
    asked = triton.InferRequestedOutput("mask", class_count=1)
    (answer,) = client.infer("fcn", [image], outputs=[asked]).as_numpy("mask").ravel()
    assert answer.decode().endswith(f":0:{tiny_spec.class_names[0]}")


def test_the_lines_of_the_readme_work(
    server: TritonServer,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = package(tiny_folder, tmp_path / "repository", "--name", "fcn")
    (lines,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    picture = noise(1, 48, 64)[0]
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture).save("picture.jpg", format="PNG")  # lossless under any name
    found: dict[str, Any] = {}
    exec(lines.replace("127.0.0.1:8000", server.http), found)
    found["client"].close()
    np.testing.assert_array_equal(found["mask"], masks_of(tiny_folder, [picture[None]])[0][0])
