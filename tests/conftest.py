"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import settings
from PIL import Image

from fcn_deploy.cli import main
from fcn_deploy.core.files import read_json, write_json
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.masks import voc_palette, write_mask
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES, draw_scene
from tests.command_line import FcnDeploy, Finished
from tests.made_once import made_once

if TYPE_CHECKING:
    from tests.decoding import Read
    from tests.result_files import AddParity
    from tests.traces import Trace

# A shared machine has slow moments, and a failure has to come back when it is looked at.
settings.register_profile("repository", derandomize=True, deadline=None)
settings.load_profile("repository")


#: The folder of traces, for pytest-xdist's workers; see ``traced_once``.
TRACES = "FCN_DEPLOY_TEST_TRACES"


def pytest_configure() -> None:
    """Give each of pytest-xdist's workers a core of its own, all of them one folder, small extras.

    ONNX Runtime and PyTorch take all cores they see, and two pools on the same cores slow each
    other down manifold.  The larger pictures of every comparison are made small, as they would take
    most of a test's time; ``tests/parity/test_extras.py`` has them as they are.
    """
    from fcn_deploy.parity import inputs

    inputs.ODD_SIZES, inputs.LARGE_SIZE = ((1, 1), (97, 131), (161, 128), (97, 7)), (129, 257)
    worker = _worker()
    if not worker:
        os.environ[TRACES] = tempfile.mkdtemp(prefix="fcn-deploy-traces-")
    elif worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


def pytest_unconfigure() -> None:
    """Delete the traces, also after a failure: they are a gigabyte."""
    if not _worker() and TRACES in os.environ:
        shutil.rmtree(os.environ.pop(TRACES), ignore_errors=True)


#: Packages whose modules take longest.  One that a worker began last is waited for by the other.
_LONGEST_FIRST = ("training", "commands", "parity", "benchmarks", "graph", "networks", "runners")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first, as ``--no-loadscope-reorder`` keeps the order."""
    here = Path(__file__).parent

    def turn(item: pytest.Item) -> int:
        package = item.path.relative_to(here).parts[0]
        return _LONGEST_FIRST.index(package) if package in _LONGEST_FIRST else len(_LONGEST_FIRST)

    items.sort(key=turn)  # a stable sort: modules stay whole and their tests in order


def _worker() -> str:
    return os.environ.get("PYTEST_XDIST_WORKER", "")


TINY_CLASS_NAMES = ("background", "disc", "ring", "box", "star")


class WriteVocFolder(Protocol):
    """Writes a folder in VOC layout and returns it; see the fixture ``voc_folder``."""

    def __call__(
        self,
        *,
        train: int = 3,
        val: int = 2,
        size: tuple[int, int] = (48, 64),
        class_names: Sequence[str] | None = SCENE_CLASS_NAMES,
        inside: str = ".",
    ) -> Path: ...


@pytest.fixture
def fcn_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> FcnDeploy:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Finished:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(stop.value.code, int)
        return Finished(stop.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def voc_folder(tmp_path: Path) -> WriteVocFolder:
    """Factory of tiny data folders, drawn by ``fcn_deploy.scenes``.

    ``train`` and ``val`` count the pictures ``train_0.jpg``, …, ``val_0.jpg``, …; ``size`` is
    (height, width); ``class_names=None`` writes no ``classes.txt``; ``inside`` is the path of the
    layout below the folder that is returned, e.g. ``VOCdevkit/VOC2012``.
    """

    def write(
        *,
        train: int = 3,
        val: int = 2,
        size: tuple[int, int] = (48, 64),
        class_names: Sequence[str] | None = SCENE_CLASS_NAMES,
        inside: str = ".",
    ) -> Path:
        folder = tmp_path / "data"
        root = folder / inside
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (root / name).mkdir(parents=True)
        if class_names is not None:
            (root / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
        for seed, (split, count) in enumerate((("train", train), ("val", val))):
            names = [f"{split}_{index}" for index in range(count)]
            for index, name in enumerate(names):
                image, mask = draw_scene(seed, index, size)
                Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
                write_mask(root / "SegmentationClass" / f"{name}.png", mask, voc_palette())
            lines = "".join(f"{name}\n" for name in names)
            (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)
        return folder

    return write


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """A model of five classes, ``fcn32s-resnet18``."""
    return ModelSpec(
        architecture="fcn32s-resnet18",
        class_names=TINY_CLASS_NAMES,
        palette=voc_palette(len(TINY_CLASS_NAMES)),
        image_sizes=SizeRange(smallest=(48, 64), typical=(48, 64), largest=(97, 131)),
    )


@pytest.fixture(scope="session")
def traced_once() -> Iterator[Trace]:
    """Trace no network twice, from the first use on in all tests of the worker.

    All that we do with a trace is done in every export, and so is the older opset made.  Gives
    the exporter's own tracing.
    """
    pytest.importorskip("torch", reason="export needs PyTorch")
    from fcn_deploy.export import baseline, exporter, trace
    from tests.traces import kept

    remembered = kept(trace.traced, Path(os.environ[TRACES]))
    with pytest.MonkeyPatch.context() as patch:
        for module in (exporter, baseline):
            patch.setattr(module, "traced", remembered)
        yield trace.traced


@pytest.fixture
def traced_anew(traced_once: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace every network of this test."""
    from fcn_deploy.export import baseline, exporter

    for module in (exporter, baseline):
        monkeypatch.setattr(module, "traced", traced_once)


@pytest.fixture(scope="session")
def tiny_folder(tiny_spec: ModelSpec, traced_once: Trace) -> Path:
    """A run directory: random weights of ``tiny_spec``, exported in both precisions.

    Holds ``model.safetensors``, ``model.onnx`` and ``model.fp16.onnx``.  Shared by the whole
    session and all its workers: read it, copy it, but do not change it.
    """
    import torch

    from fcn_deploy.core.run import Run
    from fcn_deploy.export.exporter import onnx_from_checkpoint
    from fcn_deploy.networks.architectures import build_model
    from fcn_deploy.networks.checkpoint import save_checkpoint

    def make(folder: Path) -> None:
        run = Run(folder)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build_model(tiny_spec.architecture, tiny_spec.num_classes)
        save_checkpoint(run.checkpoint, model, tiny_spec)
        for precision in (Precision.FP32, Precision.FP16):
            onnx_from_checkpoint(run.checkpoint, run.onnx(precision), precision=precision)

    return made_once(Path(os.environ[TRACES]), "tiny_run", make)


@pytest.fixture(scope="session")
def tiny_run(tiny_folder: Path) -> Path:
    """The same run; tests of the runners have it as what ``open_runner`` takes."""
    return tiny_folder


@pytest.fixture(scope="session")
def tiny_opsets(tiny_folder: Path) -> dict[int, Path]:
    """The mask of ``tiny_run`` in float32, as a file of each opset: 17 and 20."""
    from fcn_deploy.export.exporter import onnx_from_checkpoint

    def make(folder: Path) -> None:
        onnx_from_checkpoint(Run(tiny_folder).checkpoint, folder / "model.onnx", opset=17)

    older = made_once(Path(os.environ[TRACES]), "opset17", make)
    return {17: older / "model.onnx", 20: Run(tiny_folder).onnx(Precision.FP32)}


@pytest.fixture(scope="session")
def tiny_baseline(tiny_folder: Path) -> Path:
    """The plain export of ``tiny_run``, ``baseline.onnx``."""
    from fcn_deploy.export.baseline import plain_onnx_from_checkpoint

    def make(folder: Path) -> None:
        plain_onnx_from_checkpoint(Run(tiny_folder).checkpoint, Run(folder).baseline_onnx)

    return Run(made_once(Path(os.environ[TRACES]), "tiny_baseline", make)).baseline_onnx


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run directory that is not there yet."""
    return Run(tmp_path / "run")


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of parity results, made once: comparing takes a second."""
    from tests.result_files import write_parity_results

    folder = tmp_path_factory.mktemp("parity")
    write_parity_results(folder)
    return folder


@pytest.fixture
def add_parity(compared: Path) -> AddParity:
    """Give a run one of the results, with the words that a command line had for it, if any."""

    def add(run: Run, name: str, typed: Mapping[str, Sequence[str]] | None = None) -> None:
        document = read_json(compared / f"{name}.json", "")
        write_json(run.parity_folder / f"{name}.json", {**document, **(typed or {})})

    return add


@pytest.fixture
def full_run(run: Run, add_parity: AddParity) -> Run:
    """A run with everything: one candidate that passes, one that has swapped two channels."""
    from tests.result_files import BASELINE, FAST, LEVEL, SLOW, bench_document, metrics

    write_json(run.metrics, metrics())
    Image.new("RGB", (60, 20)).save(run.preview)
    add_parity(run, "ort")
    add_parity(run, "swapped")
    write_json(run.bench_folder / "all.json", bench_document(BASELINE, FAST, LEVEL, SLOW))
    return run


@pytest.fixture
def one_line() -> Callable[[Exception], str]:
    """Return an error's text after checking that a user would see a single, finished line."""

    def text_of(error: Exception) -> str:
        text = str(error)
        assert text == text.strip() != ""
        assert len(text.splitlines()) == 1
        assert "Traceback" not in text
        return text

    return text_of


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Read], None]:
    """Put a decoder in the place of the one for files."""
    from fcn_deploy.data import pipeline

    return lambda read: monkeypatch.setattr(
        pipeline, "read_image", lambda path, before=None: read(path)
    )


@pytest.fixture
def overflowing(tiny_run: Path, tiny_spec: ModelSpec, tmp_path: Path) -> Path:
    """A checkpoint that is sound in float32 and overflows in half, in layer2.0.conv1."""
    import torch
    from torch import nn

    from fcn_deploy.networks.checkpoint import load_checkpoint, save_checkpoint

    model = load_checkpoint(tiny_run / "model.safetensors").model
    block = model.get_submodule("body").get_submodule("layer2.0")
    norm, following = block.get_submodule("bn1"), block.get_submodule("conv2")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(following, nn.Conv2d)
    with torch.no_grad():  # in between stands a Relu, which keeps any scale
        norm.weight.mul_(30000)
        norm.bias.mul_(30000)
        following.weight.div_(30000)
    folder = tmp_path / "overflowing"
    folder.mkdir()
    save_checkpoint(folder / "model.safetensors", model, tiny_spec)
    return folder / "model.safetensors"
