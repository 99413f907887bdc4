"""``fcn-deploy doctor``: what this machine can run."""

from __future__ import annotations

import click

from fcn_deploy.commands.console import console


@click.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    from fcn_deploy.doctor import diagnose

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
