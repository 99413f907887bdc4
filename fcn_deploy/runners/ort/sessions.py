"""How ONNX files are opened: which one, and ONNX Runtime sessions with no silent fallback."""

from __future__ import annotations

from typing import Any

from fcn_deploy.core.errors import BackendError, FcnDeployError, cannot_import
from fcn_deploy.graph.onnx_file import shape_arithmetic

CUDA_PROVIDER, RTX_PROVIDER = "CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider"
CUDA_LIBRARIES_REPAIR = (
    "pip install nvidia-curand and the CUDA and cuDNN packages that onnxruntime-gpu names, or put "
    "their libraries onto LD_LIBRARY_PATH"
)
RTX_REPAIR = "pip install 'fcn-deploy[rtx]', on a machine with an RTX card"
#: Both lie in the same folder: the second to be installed would overwrite the first.
_GPU_INSTEAD = "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
#: Name under which the plugin's library is registered, once per process.
_RTX_REGISTRATION = "fcn_deploy_rtx"


def cuda_missing() -> str | None:
    """Return why ONNX Runtime has no CUDA provider, apart from the GPU, or None if it has."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"{cannot_import(CUDA_PROVIDER, error)}; pip install onnxruntime-gpu"
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime has no {CUDA_PROVIDER}; {_GPU_INSTEAD}"
    return None


def cuda_session(model: bytes, threads: int, *, pixels_stay: bool = True) -> Any:
    """Open a session on the CUDA provider; no node that computes with pixels may fall to the CPU.

    ONNX Runtime keeps the arithmetic of sizes there, where it is free, and counts that as falling
    back; so its own refusal of it is of no use here, and it is asked which node runs where.

    Args:
        model: the ONNX file's bytes.
        threads: of the intra-op pool.
        pixels_stay: False lets any node fall.

    Raises:
        BackendError: the provider, or a library that it needs, cannot be had, or a node fell, or
            ONNX Runtime is older than 1.24 and does not tell.
    """
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        onnxruntime.preload_dlls()
    settings = {
        "device_id": "0",
        # An exhaustive search for every new shape would cost seconds each.
        "cudnn_conv_algo_search": "HEURISTIC",
        # On by default: it would round every product to ten bits and call it FP32.
        "use_tf32": "0",
    }
    options = _gpu_options(onnxruntime, threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = _gpu_session(
        model, options, CUDA_PROVIDER, CUDA_LIBRARIES_REPAIR,
        providers=[(CUDA_PROVIDER, settings)],
    )  # fmt: skip
    if pixels_stay:
        _require_pixels_on(CUDA_PROVIDER, session, model)
    return session


def _require_pixels_on(provider: str, session: Any, model: bytes) -> None:
    import onnx

    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise BackendError(
            "this ONNX Runtime does not tell whether a node fell to the CPU",
            "pip install 'onnxruntime-gpu>=1.24'",
        )
    fallen = [
        node.name
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    ]
    lost = set(fallen) - shape_arithmetic(onnx.load_model_from_string(model))
    if lost:
        raise BackendError(
            f"{provider} leaves {len(lost)} nodes to the CPU ({', '.join(sorted(lost)[:3])})",
            "export in another opset, or use another version of onnxruntime-gpu",
        )


def rtx_session(model: bytes, threads: int) -> Any:
    """Open a session on the plugin provider of TensorRT for RTX; no node may fall to the CPU.

    Raises:
        BackendError: the plugin does not load, or takes none of this machine's devices.
    """
    import onnxruntime
    import onnxruntime_ep_nv_tensorrt_rtx as plugin

    options = _gpu_options(onnxruntime, threads)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        if not _rtx_devices(onnxruntime):
            onnxruntime.register_execution_provider_library(
                _RTX_REGISTRATION, plugin.get_library_path()
            )
        devices = _rtx_devices(onnxruntime)
        if not devices:
            raise BackendError(f"{RTX_PROVIDER} finds no device here", RTX_REPAIR)
        options.add_provider_for_devices(devices[:1], {})
    except FcnDeployError:
        raise
    except Exception as error:  # its exceptions share no base but Exception
        raise BackendError(f"{RTX_PROVIDER} does not load: {error}", RTX_REPAIR) from error
    return _gpu_session(model, options, RTX_PROVIDER, RTX_REPAIR, providers=None)


def _rtx_devices(onnxruntime: Any) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == RTX_PROVIDER]


def _gpu_options(onnxruntime: Any, threads: int) -> Any:
    onnxruntime.set_default_logger_severity(4)  # what it would print is in what we raise
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    return options


def _gpu_session(
    model: bytes, options: Any, provider: str, repair: str, *, providers: list[Any] | None
) -> Any:
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its exceptions share no base but Exception
        raise BackendError(f"{provider} cannot be had: {error}", repair) from error
    # A provider whose libraries are missing is left out with a warning, not an error.
    if provider not in session.get_providers():
        raise BackendError(f"asked for {provider}, got {session.get_providers()}", repair)
    return session
