"""The wheel in an empty environment without PyTorch: what a device installs, and what it can do."""

import os
import resource
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from fcn_deploy import __version__
from tests.command_line import Finished, run_command

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "fcn_deploy"
#: What `requirements-cpu.txt` and the wheel may take on disk, in bytes.
LARGEST = 220_000_000
#: Run where PyTorch is: a network of the built-in scenes, and its plain export.
NETWORK = """
import sys, torch
from pathlib import Path
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import ModelSpec, Precision, SizeRange
from fcn_deploy.data.masks import voc_palette
from fcn_deploy.data.scenes.render import SCENE_CLASS_NAMES as NAMES
from fcn_deploy.export.baseline import plain_onnx_from_checkpoint
from fcn_deploy.export.exporter import onnx_from_checkpoint
from fcn_deploy.networks.architectures import build_model
from fcn_deploy.networks.checkpoint import save_checkpoint

run = Run(Path(sys.argv[1]))
size = (48, 64)
spec = ModelSpec("fcn32s-resnet18", NAMES, voc_palette(len(NAMES)),
                 image_sizes=SizeRange(smallest=size, typical=size, largest=size))
torch.manual_seed(0)
run.root.mkdir()
save_checkpoint(run.checkpoint, build_model(spec.architecture, spec.num_classes), spec)
onnx_from_checkpoint(run.checkpoint, run.onnx(Precision.FP32))
plain_onnx_from_checkpoint(run.checkpoint, run.baseline_onnx)
"""


def in_bytes(folder: Path) -> int:
    """What the files of a folder take, byte code aside."""
    files = (path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())


@dataclass(frozen=True)
class Device:
    """An environment with the wheel alone, and the folder that it works in.

    Attributes:
        environment: of Python.
        pip: command that installs into it.
        folder: that it works in.
        home: of its user.
    """

    environment: Path
    pip: tuple[str, ...]
    folder: Path
    home: Path

    def run(self, *words: str) -> Finished:
        """Run a program of the environment, with nothing of ours around it."""
        scripts = self.environment / ("Scripts" if os.name == "nt" else "bin")
        kept = ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP")
        around = {name: os.environ[name] for name in kept if name in os.environ}
        done = subprocess.run(
            [str(scripts / words[0]), *words[1:]],
            cwd=self.folder, env={**around, "HOME": str(self.home)}, capture_output=True, text=True,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def must(self, *words: str) -> str:
        """Run ``fcn-deploy``, which must succeed, and return what it printed."""
        done = self.run("fcn-deploy", *words)
        assert done.code == 0, done
        return done.out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy, so that nothing of an older build gets into it."""
    pytest.importorskip("setuptools", minversion="77")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(PACKAGE, source / "fcn_deploy", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--wheel-dir", str(target), str(source)],
        check=True,
    )  # fmt: skip
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def device(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Device:
    """A device whose environment has been made, and a folder with what was copied to it."""
    pytest.importorskip("torch", reason="the network comes from a machine with PyTorch")
    environment = tmp_path_factory.mktemp("device") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet",
           "--no-compile"]  # fmt: skip
    listed = str(ROOT / "requirements-cpu.txt")
    installed = subprocess.run([*pip, "-r", listed], capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"pip cannot install here: {installed.stderr.strip().splitlines()[-1]}")
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    folder, home = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-c", NETWORK, str(folder / "here")], check=True, cwd=ROOT)
    found = Device(environment, tuple(pip), folder, home)
    found.must("scenes", "data", "--train", "1", "--val", "3", "--size", "48x64")
    code, _, err = run_command(
        "parity", str(folder / "here"), "--backend", "torch", "--device", "cpu",
        "--images", str(folder / "data/JPEGImages"), "--save-outputs", str(folder / "torch.json"),
    )  # fmt: skip
    assert code == 0, err
    pictures = str(folder / "data/JPEGImages")
    for words in (
        ["parity", str(folder / "here"), "--backend", "ort", "--images", pictures],
        ["bundle", str(folder / "here"), "--pictures", pictures, "--images", "2",
         "--out", str(folder / "model.fcnd.zip")],
    ):  # fmt: skip
        code, out, err = run_command(*words)
        assert code == 0, out + err
    (folder / "run").mkdir()
    for name in ("model.onnx", "baseline.onnx"):
        (folder / "here" / name).rename(folder / "run" / name)
    shutil.rmtree(folder / "here")  # the checkpoint stays where PyTorch is
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        metadata = archive.read(f"fcn_deploy-{__version__}.dist-info/METADATA").decode()
    assert {name for name in held if name.startswith("fcn_deploy/")} == there
    assert {"fcn_deploy/py.typed", "fcn_deploy/report/templates/report.css"} <= there
    assert {name.split("/")[0] for name in held} == {
        "fcn_deploy", f"fcn_deploy-{__version__}.dist-info",
    }  # fmt: skip
    assert f"\nVersion: {__version__}\n" in metadata


def test_the_environment_is_small(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    library = Path(sysconfig.get_path("purelib", vars={"base": str(device.environment)}))
    parts = sorted(((in_bytes(part), part.name) for part in library.iterdir()), reverse=True)
    whole = in_bytes(device.environment)
    with capsys.disabled():
        largest = ", ".join(f"{name} {size / 1e6:.0f}" for size, name in parts[:6])
        print(f"\nthe runtime takes {whole / 1e6:.0f} MB: {largest}, …")
    assert {"fcn_deploy", "onnxruntime", "onnx", "numpy"} <= {name for _, name in parts}
    assert not [name for _, name in parts if name.startswith(("torch", "safetensors", "nvidia"))]
    assert whole <= LARGEST


def test_the_command_starts(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    assert device.must("--version").split() == ["fcn-deploy,", "version", __version__]
    device.must("--help")  # byte code is written
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: fcn-deploy" in device.must("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(f"\n`fcn-deploy --help` takes {seconds:.2f} s of CPU")


def test_the_doctor_knows_what_is_there(device: Device) -> None:
    out = device.must("doctor")
    assert "\n  onnxruntime 1." in out
    assert "warning" not in out
    assert "\n  ort              works" in out
    assert "pip install 'ncnn>=" in out  # our own name would bring the other ONNX Runtime


def test_training_is_refused_in_one_line(device: Device) -> None:
    done = device.run("fcn-deploy", "train")
    assert done.code == 2
    assert "training needs torch, which cannot be imported; pip install '" in done.err
    assert "'torch>=" in done.err
    assert len(done.err.splitlines()) == 1


def test_the_runtime_does_its_work_and_writes_nothing_elsewhere(device: Device) -> None:
    installed = files_of(device.environment)
    device.must("predict", "run", "data/JPEGImages", "--out", "masks")
    assert len(list((device.folder / "masks").glob("*.png"))) == 4
    device.must("bench", "run", "--backend", "ort", "--quick", "--size", "48x64")
    device.must("evaluate", "run", "--data", "data", "--split", "val")
    device.must(
        "parity", "run", "--backend", "ort", "--images", "data/JPEGImages",
        "--save-outputs", "ort.json",
    )  # fmt: skip
    assert "same masks" in device.must("parity", "torch.json", "ort.json")
    device.must("report", "run")
    assert "<html" in (device.folder / "run" / "report.html").read_text(encoding="utf-8")
    assert files_of(device.environment) == installed
    assert not list(device.home.iterdir())


def test_a_bundle_that_was_made_elsewhere_runs_and_proves_itself(device: Device) -> None:
    installed = files_of(device.environment)
    before = device.must("predict", "model.fcnd.zip", "data/JPEGImages", "--out", "unproven")
    assert "(`fcn-deploy verify model.fcnd.zip --run` finds the fastest)" in before
    out = device.must("verify", "model.fcnd.zip", "--run", "--json", "verified.json")
    assert "ort             fp32  same masks by the gate of `parity`: 0 of " in out
    assert "wrote model.fcnd/parity/verify.json" in out
    out = device.must("predict", "model.fcnd.zip", "data/JPEGImages")
    assert "backend: ort fp32: same masks by model.fcnd/parity/verify.json, timed in " in out
    masks, unproven = device.folder / "model.fcnd" / "predictions", device.folder / "unproven"
    names = sorted(mask.name for mask in unproven.glob("*.png"))
    assert len(names) == 4
    assert all((masks / name).read_bytes() == (unproven / name).read_bytes() for name in names)
    device.must("bench", "model.fcnd.zip", "--backend", "ort", "--quick", "--size", "48x64")
    device.must("evaluate", "model.fcnd.zip", "--data", "data", "--split", "val")
    device.must("report", "model.fcnd.zip")
    page = (device.folder / "model.fcnd" / "report.html").read_text(encoding="utf-8")
    assert "model.fcnd/parity/verify.json" in page
    assert files_of(device.environment) == installed
    assert [path.name for path in device.home.iterdir()] == [".cache"]


def test_serving_brings_what_it_says_is_missing(device: Device) -> None:
    served = ("fcn-deploy", "serve", "model.fcnd.zip", "--check", "--port", "0")
    done = device.run(*served)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1, done.err
    _, _, wanted = done.err.strip().partition("pip install ")
    assert "starlette" in wanted
    subprocess.run([*device.pip, *shlex.split(wanted)], check=True)
    done = device.run(*served)
    assert done.code == 0, done


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
