"""ONNX Runtime sessions: one way to open them, and no silent fallback."""

from __future__ import annotations

from typing import Any

from fcn_deploy.errors import BackendError, OnnxFileError
from fcn_deploy.onnx_file import FOREIGN_REPAIR


def cpu_session(model: bytes, threads: int) -> Any:
    """Open a session on the CPU provider.

    Args:
        model: the ONNX file's bytes.
        threads: of the intra-op pool.

    Raises:
        OnnxFileError: ONNX Runtime refuses the file.
        BackendError: the session did not get the CPU provider.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings of graph clean-up help nobody here
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but Exception
        raise OnnxFileError(f"ONNX Runtime refuses the file: {error}", FOREIGN_REPAIR) from error
    if session.get_providers() != ["CPUExecutionProvider"]:
        raise BackendError(f"asked for the CPU provider, got {session.get_providers()}")
    return session
