"""Run: which file of a run lies where, and which command makes one that is missing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path, PurePath

from fcn_deploy.core.errors import ArtifactError, MissingStageError
from fcn_deploy.core.spec import Precision

DEFAULT_RUN = Path("runs/fcn")
#: How a bundle's name ends; see :mod:`fcn_deploy.bundle`.
BUNDLE_SUFFIX = ".fcnd.zip"
#: Of the files that may be named in place of a run.
MODEL_SUFFIXES = (".safetensors", ".onnx", ".plan")


def command_suffix(root: PurePath) -> str:
    """Return a run directory as typed after a command, with a space before it.

    Empty for the default run.
    """
    return "" if root == DEFAULT_RUN else f" {shlex.quote(str(root))}"


@dataclass(frozen=True)
class Run:
    """A run directory, with single files that the user named instead of its own.

    Attributes:
        root: the directory, e.g. ``runs/fcn``.
        named_file: a checkpoint, ONNX file or engine given by name in place of the run's own.
        trusted: load an engine that has no sidecar, or came in a bundle; engines are code.
        bundle: the bundle that ``root`` was extracted from, or None.
    """

    root: Path
    named_file: Path | None = None
    trusted: bool = False
    bundle: Path | None = None

    @classmethod
    def from_argument(cls, argument: str | Path | None) -> Run:
        """Turn a command's RUN argument (a directory, a file, nothing) into a run.

        Raises:
            MissingStageError: neither a directory nor a file of that name exists.
            ArtifactError: the file is neither a checkpoint nor an ONNX file.
        """
        if argument is None:
            return cls(DEFAULT_RUN)
        path = Path(argument)
        if path.is_file():
            if path.name.endswith(BUNDLE_SUFFIX):
                raise ArtifactError(
                    f"{path} is a bundle, and this takes runs and their files",
                    "in Python, open_bundle gives a bundle as a run",
                )
            if path.suffix not in MODEL_SUFFIXES:  # its neighbours must not stand in for it
                raise ArtifactError(
                    f"{path} is no checkpoint (.safetensors), ONNX file (.onnx) or engine (.plan)",
                    "give a run directory or one of its model files",
                )
            return cls(path.parent, path)
        if path.is_dir():
            return cls(path)
        if path.suffix in MODEL_SUFFIXES:
            raise MissingStageError(f"no file {path}", "check the path, or name a run directory")
        raise MissingStageError(
            f"no run {path}", f"run `fcn-deploy train --out {shlex.quote(str(path))}` first"
        )

    def _file(self, name: str, suffix: str) -> Path:
        if self.named_file is not None and self.named_file.suffix == suffix:
            return self.named_file
        return self.root / name

    @property
    def command_suffix(self) -> str:
        """The RUN argument as the user should type it; see :func:`command_suffix`."""
        return command_suffix(self.bundle or self.root)

    @property
    def out_option(self) -> str:
        """The same as the option of `train` and `import`: empty for the default run."""
        return self.command_suffix and f" --out{self.command_suffix}"

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint lies (it may not exist)."""
        return self._file("model.safetensors", ".safetensors")

    def onnx(self, precision: Precision) -> Path:
        """Where the ONNX file of that precision lies (it may not exist)."""
        name = "model.onnx" if precision is Precision.FP32 else f"model.{precision.value}.onnx"
        return self._file(name, ".onnx")

    def has_model(self) -> bool:
        """Say whether a checkpoint or an ONNX file is there."""
        return self.checkpoint.exists() or any(self.onnx(p).exists() for p in Precision)

    def onnx_target(self, precision: Precision) -> Path:
        """Where `export` writes: always the run's own file, never one that was named."""
        return Run(self.root).onnx(precision)

    @property
    def name(self) -> str:
        """What the run's engines are named after: its directory, or the ONNX file given."""
        if self.named_file is not None and self.named_file.suffix == ".onnx":
            return self.named_file.stem
        if self.bundle is not None:
            return self.bundle.name.removesuffix(BUNDLE_SUFFIX)
        return self.root.resolve().name

    @property
    def shown(self) -> Path:
        """What the user calls it: the directory, or the bundle."""
        return self.bundle or self.root

    @property
    def results_root(self) -> Path:
        """Where commands write results: the run itself; of a bundle a folder of its name beside it.

        That of ``model.fcnd.zip`` is ``model.fcnd``.
        """
        return self.root if self.bundle is None else self.bundle.with_suffix("")

    @property
    def engines_folder(self) -> Path:
        """Engines that came with the run, as those of a bundle do."""
        return self.root / "engines"

    @property
    def certificate(self) -> Path:
        """Of a bundle: the pictures that ride along, and the reference's masks and logits."""
        return self.root / "certificate" / "certificate.json"

    @property
    def named_engine(self) -> Path | None:
        """A TensorRT engine given by name, or None."""
        if self.named_file is not None and self.named_file.suffix == ".plan":
            return self.named_file
        return None

    @property
    def baseline_onnx(self) -> Path:
        """The plain export that `bench` measures as the baseline."""
        return self.results_root / "baseline.onnx"

    @property
    def original(self) -> Path:
        """The ONNX file of another tool that this run was imported from."""
        return self.root / "original.onnx"

    @property
    def original_record(self) -> Path:
        """How the original is fed and read, as `import` found it and was told."""
        return self.root / "original.json"

    @property
    def is_foreign(self) -> bool:
        """Whether the run was imported from ONNX: an original in a checkpoint's place."""
        return self.original_record.is_file() and not self.checkpoint.is_file()

    @property
    def metrics(self) -> Path:
        """Training figures per epoch."""
        return self.root / "metrics.json"

    @property
    def preview(self) -> Path:
        """Grid image | prediction | truth, of the last epoch."""
        return self.root / "preview.png"

    def preview_of(self, epoch: int) -> Path:
        """The same grid of an epoch, from 1."""
        return self.root / "previews" / f"epoch-{epoch:03}.png"

    @property
    def last_checkpoint(self) -> Path:
        """The weights after the last epoch; :attr:`checkpoint` holds those of the best."""
        return self.root / "last.safetensors"

    @property
    def epoch_lines(self) -> Path:
        """The figures of :attr:`metrics` again, one epoch a line."""
        return self.root / "metrics.jsonl"

    @property
    def state(self) -> Path:
        """Where an unfinished training run stands, for ``train --resume``."""
        return self.root / "state.pt"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def parity_folder(self) -> Path:
        """Parity results, one JSON per candidate."""
        return self.results_root / "parity"

    @property
    def evaluate_folder(self) -> Path:
        """Scores against labels."""
        return self.results_root / "evaluate"

    @property
    def bench_folder(self) -> Path:
        """Benchmark results."""
        return self.results_root / "bench"

    @property
    def bisect_folder(self) -> Path:
        """Layer-by-layer comparisons of two ONNX files."""
        return self.results_root / "bisect"

    @property
    def predictions(self) -> Path:
        """Where `predict` writes masks and its journal."""
        return self.results_root / "predictions"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.results_root / "report.html"

    def require_checkpoint(self) -> Path:
        """Return the checkpoint's path.

        Raises:
            MissingStageError: the run has not been trained, or was imported from ONNX.
        """
        if self.bundle is not None:
            raise MissingStageError(
                f"{self.bundle} is a bundle and holds no checkpoint",
                "use a backend that runs ONNX files, e.g. --backend ort",
            )
        if self.is_foreign:
            raise MissingStageError(
                f"{self.root} was imported from ONNX and holds no checkpoint",
                "use a backend that runs ONNX files, e.g. --backend ort",
            )
        if not self.checkpoint.is_file():
            raise MissingStageError(
                f"no {self.checkpoint}", f"run `fcn-deploy train{self.out_option}` first"
            )
        return self.checkpoint

    def require_onnx(self, precision: Precision) -> Path:
        """Return the ONNX file's path.

        Raises:
            MissingStageError: the run has not been exported in that precision.
        """
        path = self.onnx(precision)
        if not path.is_file() and self.bundle is not None:
            raise MissingStageError(
                f"{self.bundle} holds no {path.name}",
                f"export it where the run is with `fcn-deploy export{precision.flag}`, and bundle "
                "it again",
            )
        if not path.is_file():
            raise MissingStageError(
                f"no {path}", f"run `fcn-deploy export{self.command_suffix}{precision.flag}` first"
            )
        return path
