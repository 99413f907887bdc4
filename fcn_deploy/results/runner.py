"""What a runner is, in results: RunnerDescription, and the names of baselines and stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fcn_deploy.core.spec import Precision
from fcn_deploy.results.fields import Fields
from fcn_deploy.results.record import Record, read_field, read_fields

if TYPE_CHECKING:
    from typing_extensions import Self

#: How float32 as three products of 8-bit integers is called beside the precisions.
INT8X3_NAME = "fp32-int8x3"
#: What a network's numbers are computed in; ``int8x3`` is float32 as three products of 8-bit
#: integers.
ARITHMETICS = ("fp32", "fp16", "bf16", "int8", "int8x3")
#: The plain export, which bench measures the others against: those on the CPU, those on the GPU.
BASELINES = CPU_BASELINE, GPU_BASELINE = ("baseline", "baseline-cuda")
#: What a run consists of.  ``copy in`` is all that stands between the decoded pictures and the
#: network's input (the baseline normalises there), ``copy out`` all behind the network's output.
STAGES = COPY_IN, COMPUTE, COPY_OUT = ("copy in", "compute", "copy out")


@dataclass(frozen=True)
class GraphCounts(Record):
    """How many times a runner has tried to record a batch's work as a CUDA graph.

    Attributes:
        recorded: times that it became a graph.
        refused: times that it did not; such batches are enqueued plainly, which costs host time.
    """

    recorded: int
    refused: int


@dataclass(frozen=True)
class RunnerDescription(Record):
    """What a runner really is, as built, for results and reports.

    Attributes:
        backend: the name it was opened by.
        device: e.g. ``cpu`` or ``cuda:0 (NVIDIA …)``.
        precision: of the model file; ``bf16`` where a float32 file is computed in bfloat16.
        arithmetic: what the numbers are computed in, of :data:`ARITHMETICS`.
        library: name and version of what executes it.
        providers: ONNX Runtime's execution providers in use; empty for others.
        cuda_graphs: of the batches so far, for ``trt``; None for others, and in older files.  It
            grows while the runner runs, and so does not tell one runner from another.
        note: what is unusual about the model file; None: nothing.
        tail: form of the network's last step, of ``trt``'s engines; None where that is not told.
        portable: what ``trt``'s engine was built to fit beyond one release and one kind of GPU,
            ``version`` or ``ampere+``; None: nothing, or not told.
        threads: CPU threads it was pinned to.
        file: path of the model file.
        digest: of that file.
        checkpoint_digest: of the checkpoint it stems from.
    """

    backend: str
    device: str
    precision: str
    arithmetic: str
    library: str
    threads: int
    file: str
    digest: str
    checkpoint_digest: str
    providers: tuple[str, ...] = field(default=())
    cuda_graphs: GraphCounts | None = field(default=None, compare=False)
    note: str | None = None
    tail: str | None = None
    portable: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device.startswith("cuda")

    @property
    def is_baseline(self) -> bool:
        """Whether this is the plain export."""
        return self.backend in BASELINES

    @property
    def precision_name(self) -> str:
        """The precision of the file, or that of the arithmetic where it is a float32 of its own."""
        return INT8X3_NAME if self.arithmetic == "int8x3" else self.precision

    @property
    def is_float32(self) -> bool:
        """Whether it computes in float32 all through, not in products of fewer bits."""
        return self.precision == self.arithmetic == Precision.FP32.value

    @property
    def widens_halves(self) -> bool:
        """Whether a half file is computed in float32, as ONNX Runtime's CPU provider does on x86.

        It does not round between nodes, and what overflows on a GPU does not overflow in it.
        """
        return self.precision == Precision.FP16.value and self.arithmetic == Precision.FP32.value

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        optional = ("cuda_graphs", "note", "tail", "portable")
        values = super().to_json().items()
        return {name: v for name, v in values if v is not None or name not in optional}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        for name, known in (("arithmetic", ARITHMETICS), ("precision", tuple(Precision))):
            if fields.text(name) not in known:
                raise fields.wrong(name, f"one of {', '.join(known)}")
        told = "cuda_graphs" in fields.values
        graphs = read_field(GraphCounts, fields, "cuda_graphs") if told else None
        return cls(**read_fields(cls, fields, cuda_graphs=graphs))
