"""``fcn-deploy doctor``: what this machine can run, and why not the rest."""

from dataclasses import dataclass

import click

from fcn_deploy.commands.shared.console import console


@click.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    found = diagnose()
    console.print("machine")
    for key, value in found.machine.items():
        words = " ".join(value) if isinstance(value, list) else value
        console.print(f"  {key:<14}{words}")
    console.print("versions")
    for name, version in found.versions.items():
        console.print(f"  {name:<18}{version}")
    console.print("onnxruntime")
    for line in found.onnx_runtimes:
        console.print(f"  {line}")
    console.print(f"devices\n  {found.devices}")
    console.print("backends")
    width = max(map(len, found.backends)) + 2
    for backend, reason in found.backends.items():
        console.print(f"  {backend:<{width}}{'works' if reason is None else f'no: {reason}'}")


@dataclass(frozen=True)
class Diagnosis:
    """The state of this machine.

    Attributes:
        machine: CPU, cores, memory, system, Python.
        versions: of the distributions that matter; what is not installed is not named.
        onnx_runtimes: which distributions of ONNX Runtime are installed and what they compute on,
            and what is wrong with that.
        devices: what PyTorch can compute on, or why it is not known.
        backends: backend → None where it works, else why not and what to install.
    """

    machine: dict[str, object]
    versions: dict[str, str]
    onnx_runtimes: list[str]
    devices: str
    backends: dict[str, str | None]


def diagnose() -> Diagnosis:
    """Look at this machine; nothing here raises."""
    from fcn_deploy.machine.description import describe_machine, describe_versions
    from fcn_deploy.runners.base import BACKENDS, unavailable_reason

    return Diagnosis(
        machine=describe_machine(),
        versions=describe_versions(),
        onnx_runtimes=_onnx_runtimes(),
        devices=_devices(),
        backends={backend: unavailable_reason(backend) for backend in BACKENDS},
    )


def _onnx_runtimes() -> list[str]:
    from importlib import metadata

    # Whoever owns the folder: there are more than onnxruntime and onnxruntime-gpu.
    names = sorted(set(metadata.packages_distributions().get("onnxruntime", [])))
    installed = " and ".join(f"{name} {metadata.version(name)}" for name in names)
    try:
        import onnxruntime

        providers = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:  # not installed, or in pieces
        providers = f"cannot be imported ({error})"
    lines = [f"{installed or 'not installed by pip'}: {providers}"]
    if len(names) > 1:
        lines.append(
            "warning: they lie in the same folder, and the later has overwritten the other; "
            f"pip uninstall -y {' '.join(names)}, then pip install the one that you need: "
            "onnxruntime-gpu for NVIDIA's GPUs, onnxruntime for a CPU"
        )
    return lines


def _devices() -> str:
    from fcn_deploy.networks.device import missing_torch

    if (error := missing_torch("naming PyTorch's devices")) is not None:
        return f"unknown: {error}"
    # By name, at run time: this module must import where PyTorch is not installed.
    import importlib

    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "cpu (PyTorch sees no CUDA device)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(names))])
