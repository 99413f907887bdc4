"""ServedModel: an ONNX file or an engine as Triton has to know it, whichever it is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fcn_deploy.core.errors import ArtifactError, EngineError, InputError, MissingStageError
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import (
    DEFAULT_PROFILE_BATCH,
    BatchShape,
    ModelSpec,
    Precision,
    Product,
    ShapeProfile,
)
from fcn_deploy.graph.onnx_file import OnnxFile, require_model
from fcn_deploy.tensorrt.build_missing import build_command
from fcn_deploy.tensorrt.engine_file import (
    ENGINES_FOLDER,
    REPAIR,
    EngineSidecar,
    read_engine,
    read_sidecar,
    sidecar_path,
)

if TYPE_CHECKING:
    import onnx

#: Of tensors whose file names no sizes: (N, H, W) and what lies between or behind them.
_RANKS = {"mask": 3, "margin": 3, "logits": 4}


@dataclass(frozen=True)
class Tensor:
    """An input or an output.

    Attributes:
        name: e.g. ``image``.
        dtype: as numpy names it.
        shape: N first; -1 where it is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ServedModel:
    """A model file and what Triton's configuration says of it.

    Attributes:
        source: the file that is packaged.
        digest: of the file.
        spec: classes, colours, sizes of the training images.
        precision: of the network's arithmetic.
        image: the input.
        outputs: in the order of the file.
        engine: the sidecar; None: it is an ONNX file.
    """

    source: Path
    digest: str
    spec: ModelSpec
    precision: Precision
    image: Tensor
    outputs: tuple[Tensor, ...]
    engine: EngineSidecar | None = None

    @property
    def platform(self) -> str:
        """Triton's name of what runs the file."""
        return "onnxruntime_onnx" if self.engine is None else "tensorrt_plan"

    @property
    def file_name(self) -> str:
        """What Triton expects the file to be called."""
        return "model.onnx" if self.engine is None else "model.plan"

    @property
    def profiles(self) -> tuple[ShapeProfile, ...]:
        """The batch shapes that an engine takes; empty: what the network takes."""
        return () if self.engine is None else self.engine.profiles

    @property
    def fixed_batch(self) -> int | None:
        """The only N that is taken; None: any up to a limit."""
        return None if self.image.shape[0] == -1 else self.image.shape[0]

    @property
    def least_batch(self) -> int:
        """The smallest N that is taken."""
        return self.fixed_batch or max((p.smallest[0] for p in self.profiles), default=1)

    def batch_limit(self, asked: int | None) -> int:
        """Return Triton's ``max_batch_size``: 0 where N is fixed, and belongs to the dims.

        Args:
            asked: by the user; None: the engine's own limit, or that of a default profile.

        Raises:
            InputError: the model does not take so many at once.
            EngineError: there is no such limit.
        """
        if self.fixed_batch is not None:
            if asked not in (None, self.fixed_batch):
                raise InputError(
                    f"the network takes batches of {self.fixed_batch} pictures, not of up to "
                    f"{asked}",
                    "drop --max-batch",
                )
            return 0
        # Pictures of one size may fit one profile alone, so the smallest limit holds for all.
        limit = min((profile.largest[0] for profile in self.profiles), default=None)
        if limit is not None and limit < self.least_batch:
            raise EngineError(
                f"{self.source} has profiles that share no number of pictures, and Triton takes "
                "one limit for all",
                "build an engine whose profiles do",
            )
        if asked is None:
            return limit or DEFAULT_PROFILE_BATCH
        if limit is not None and not self.least_batch <= asked <= limit:
            raise InputError(
                f"the engine takes batches of {self.least_batch} to {limit} pictures, not of up "
                f"to {asked}",
                "drop --max-batch, or build an engine with another --profile",
            )
        return asked

    def warm_up_shapes(self, max_batch: int) -> tuple[BatchShape, ...]:
        """Return the batches (N, H, W) to run before the first request.

        They are the sizes of the training images, one at a time, the typical one as a full batch
        too; of an engine those that it takes, and what each of its profiles is tuned for.

        Args:
            max_batch: of :meth:`batch_limit`.
        """
        sizes = self.spec.image_sizes
        least, most = self.least_batch, max_batch or self.least_batch
        fitted = self.spec.input_shape.fitted
        typical = fitted(*sizes.typical)
        shapes = [
            (least, *fitted(*sizes.smallest)),
            (least, *typical),
            (least, *fitted(*sizes.largest)),
            (most, *typical),
        ]
        if self.profiles:
            shapes = [s for s in shapes if any(p.contains(s) for p in self.profiles)]
            shapes += [(min(p.typical[0], most), *p.typical[1:]) for p in self.profiles]
        return tuple(dict.fromkeys(shapes))

    def copy_to(self, folder: Path) -> None:
        """Write the file under its name, an engine with its sidecar, into a folder.

        Raises:
            ArtifactError: the file is not the one that was read before.
        """
        target = folder / self.file_name
        shutil.copyfile(self.source, target)
        if self.engine is None:
            if OnnxFile(target).digest != self.digest:
                raise ArtifactError(f"{self.source} changed while it was copied", "try again")
            return
        shutil.copyfile(sidecar_path(self.source), sidecar_path(target))
        read_engine(target)


def onnx_model(run: Run, precision: Precision) -> ServedModel:
    """Return a run's ONNX file of that precision as Triton has to know it.

    Raises:
        MissingStageError: the run has not been exported in that precision.
        OnnxFileError: the file is not ours, or older than the checkpoint.
    """
    file = require_model(run, precision)
    metadata = file.metadata
    graph = file.model.graph
    model = ServedModel(
        source=file.path,
        digest=file.digest,
        spec=metadata.spec,
        precision=metadata.precision,
        image=next(_tensor(value) for value in graph.input if value.name == "image"),
        outputs=tuple(_tensor(value) for value in graph.output),
    )
    file.release()
    return model


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(axis.dim_value or -1 for axis in kind.shape.dim)
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
    return Tensor(value.name, dtype, shape or (-1,) * _RANKS[value.name])


def engine_model(run: Run, precision: Precision) -> ServedModel:
    """Return a run's TensorRT engine as Triton has to know it; TensorRT is not needed.

    Args:
        run: one whose engine lies in ``engines/``, or an engine that was named.
        precision: of the run's engine; of a named one float32 stands for any.

    Raises:
        MissingStageError: there is no engine, or it has no sidecar.
        EngineError: it is damaged, or of a TensorRT or a system that Triton does not run.
        InputError: there are several.
    """
    plan = run.named_engine or _engine_of(run, precision)
    if plan.is_file() and not sidecar_path(plan).is_file():
        raise MissingStageError(
            f"{plan} has no sidecar: expected {sidecar_path(plan).name} beside it", REPAIR
        )
    sidecar = read_engine(plan)
    if sidecar.product is not Product.TRT:
        raise EngineError(
            f"{plan} is an engine of TensorRT for RTX, which Triton has no backend for",
            "build one with `fcn-deploy build --product trt`",
        )
    if not sidecar.system.startswith("Linux"):
        raise EngineError(
            f"{plan} is for {sidecar.system}, and Triton's containers are Linux",
            "build the engine on the machine that serves",
        )
    if precision not in (Precision.FP32, sidecar.precision):
        raise EngineError(
            f"{plan} holds a {sidecar.precision.value} network, not {precision.value}",
            f"drop{precision.flag}",
        )
    tensors = {
        mode: tuple(Tensor(t.name, t.dtype, t.shape) for t in sidecar.tensors if t.mode == mode)
        for mode in ("input", "output")
    }
    (image,) = tensors["input"]
    return ServedModel(
        source=plan,
        digest=sidecar.plan_digest,
        spec=sidecar.spec,
        precision=sidecar.precision,
        image=image,
        outputs=tensors["output"],
        engine=sidecar,
    )


def _engine_of(run: Run, precision: Precision) -> Path:
    """Return the engine that was built from a run's ONNX file, on whichever machine."""
    file = require_model(run, precision)
    found = []
    for plan in sorted(ENGINES_FOLDER.glob("*.plan")):
        try:
            sidecar = read_sidecar(plan)
        except ArtifactError:  # another one's, or damaged: not this file's as far as we know
            continue
        if sidecar.product is Product.TRT and sidecar.onnx_digest == file.digest:
            found.append(plan)
    if not found:
        raise MissingStageError(
            f"no engine in {ENGINES_FOLDER}/ was built from {file.path} with TensorRT",
            f"run `{build_command(run, precision, Product.TRT)}` first",
        )
    if len(found) > 1:
        raise InputError(
            f"{len(found)} engines were built from {file.path}: {', '.join(map(str, found))}",
            "name the one for the machine that serves, in place of the run",
        )
    return found[0]
