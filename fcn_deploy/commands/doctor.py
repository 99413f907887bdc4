"""``fcn-deploy doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

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
        devices: what PyTorch can compute on, or why it is not known.
        backends: backend → None where it works, else why not and what to install.
    """

    machine: dict[str, object]
    versions: dict[str, str]
    devices: str
    backends: dict[str, str | None]


def diagnose() -> Diagnosis:
    """Look at this machine; nothing here raises."""
    from fcn_deploy.machine.description import describe_machine, describe_versions
    from fcn_deploy.runners.base import BACKENDS, unavailable_reason

    return Diagnosis(
        machine=describe_machine(),
        versions=describe_versions(),
        devices=_devices(),
        backends={backend: unavailable_reason(backend) for backend in BACKENDS},
    )


def _devices() -> str:
    try:
        # By name, at run time: this module must import where PyTorch is not installed.
        import importlib

        torch = importlib.import_module("torch")
    except ImportError as error:
        return f"unknown, PyTorch cannot be imported ({error})"
    if not torch.cuda.is_available():
        return "cpu (PyTorch sees no CUDA device)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *(f"cuda:{i} ({name})" for i, name in enumerate(names))])
