"""RunnerDescription, baseline names, stage names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fcn_deploy.core.spec import Precision
from fcn_deploy.results.fields import Fields

#: What stands behind the library's name where a half file is computed so.
WIDENED = ", half precision computed in float32"
#: The plain export, which bench measures the others against: those on the CPU, those on the GPU.
BASELINES = CPU_BASELINE, GPU_BASELINE = ("baseline", "baseline-cuda")
#: What a run consists of.  ``copy in`` is all that stands between the decoded pictures and the
#: network's input (the baseline normalises there), ``copy out`` all behind the network's output.
STAGES = COPY_IN, COMPUTE, COPY_OUT = ("copy in", "compute", "copy out")


@dataclass(frozen=True)
class RunnerDescription:
    """What a runner really is, as built, for results and reports.

    Attributes:
        backend: the name it was opened by.
        device: e.g. ``cpu`` or ``cuda:0 (NVIDIA …)``.
        precision: of the network's arithmetic.
        library: name and version of what executes it.
        providers: ONNX Runtime's execution providers in use; empty for others.
        threads: CPU threads it was pinned to.
        file: path of the model file.
        digest: of that file.
        checkpoint_digest: of the checkpoint it stems from.
    """

    backend: str
    device: str
    precision: str
    library: str
    threads: int
    file: str
    digest: str
    checkpoint_digest: str
    providers: tuple[str, ...] = field(default=())

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return self.device.startswith("cuda")

    @property
    def is_baseline(self) -> bool:
        """Whether this is the plain export."""
        return self.backend in BASELINES

    @property
    def is_float32(self) -> bool:
        """Whether it computes in float32 all through, not in products of fewer bits."""
        return self.precision == Precision.FP32.value and SPLIT not in self.library

    @property
    def widens_halves(self) -> bool:
        """Whether a half file is computed in float32, as ONNX Runtime's CPU provider does on x86.

        It does not round between nodes, and what overflows on a GPU does not overflow in it.
        """
        return self.library.endswith(WIDENED)

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Fields) -> RunnerDescription:
        """Read back what :meth:`to_json` gave.

        Raises:
            ArtifactError: a field is missing or damaged.
        """
        return cls(
            backend=fields.text("backend"),
            device=fields.text("device"),
            precision=fields.text("precision"),
            library=fields.text("library"),
            threads=fields.whole("threads"),
            file=fields.text("file"),
            digest=fields.text("digest"),
            checkpoint_digest=fields.text("checkpoint_digest"),
            providers=fields.texts("providers"),
        )


#: Stands in a library's description where float32 is computed in parts: saved outputs of a former
#: release, which took bfloat16 for it, have it too.
SPLIT = "as three "
