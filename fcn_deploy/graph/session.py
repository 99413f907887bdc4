"""One ONNX Runtime CPU session, for calibration and bisect."""

from __future__ import annotations

from typing import Any

from fcn_deploy.core.errors import BackendError, OnnxFileError
from fcn_deploy.graph.onnx_file import FOREIGN_REPAIR


def cpu_session(model: bytes, threads: int, *, spinning: bool = True) -> Any:
    """Open a session on the CPU provider, with its own options but for the threads.

    Arena, memory pattern, I/O binding and fixed sizes were measured and gain nothing; see
    docs/numerics.md.

    Args:
        model: the ONNX file's bytes.
        threads: of the intra-op pool.
        spinning: within a run its threads look out for the next work on their cores; False where
            another library computes between two runs.

    Raises:
        OnnxFileError: ONNX Runtime refuses the file.
        BackendError: the session did not get the CPU provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # By default they look out for it behind a run as well, and cost a server more than the run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; warnings of graph clean-up help nobody here
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"ONNX Runtime refuses the file: {error}", FOREIGN_REPAIR) from error
    if session.get_providers() != ["CPUExecutionProvider"]:
        raise BackendError(f"asked for the CPU provider, got {session.get_providers()}")
    return session
