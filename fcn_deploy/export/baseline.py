"""The baseline of the bench: a plain torch.onnx export of the same network."""

from __future__ import annotations

from pathlib import Path

import onnx.version_converter
import torch

from fcn_deploy.core.errors import OnnxFileError
from fcn_deploy.core.files import file_digest, write_bytes
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision
from fcn_deploy.export.simplify import name_nodes
from fcn_deploy.export.trace import DEFAULT_OPSET, strip_traces, traced
from fcn_deploy.graph.onnx_file import OnnxFile, write_metadata
from fcn_deploy.networks.checkpoint import Checkpoint, load_checkpoint


def ensure_baseline(run: Run) -> Path:
    """Return the run's plain export, written anew where it is missing, stale or damaged.

    Raises:
        MissingStageError: the run has not been trained.
        CheckpointError: the checkpoint cannot be used.
        ArtifactError: the file cannot be written.
    """
    checkpoint = run.require_checkpoint()
    try:
        written = OnnxFile(run.baseline_onnx).metadata
        fresh = written.checkpoint_digest == file_digest(checkpoint)
    except OnnxFileError:
        fresh = False
    if not fresh:
        plain_onnx_from_checkpoint(checkpoint, run.baseline_onnx)
    return run.baseline_onnx


def plain_onnx_from_checkpoint(checkpoint_path: Path, target: Path) -> None:
    """Write the baseline of `bench`: float32 ``input`` [N, 3, H, W] → float32 ``logits``.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ArtifactError: the file cannot be written.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    graph = plain_graph(checkpoint)
    write_metadata(graph, checkpoint.spec, Precision.FP32, file_digest(checkpoint_path))
    write_bytes(target, graph.SerializeToString())


def plain_graph(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the plain export of a checkpoint: float32 NCHW in, float32 logits out."""
    example = torch.zeros(2, 3, 64, 96)
    axes = {0: "N", 2: "H", 3: "W"}
    graph = traced(checkpoint.model, example, "input", ["logits"], axes, DEFAULT_OPSET)
    name_nodes(graph.graph, checkpoint.model)
    strip_traces(graph)
    return graph
