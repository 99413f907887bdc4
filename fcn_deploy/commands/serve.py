"""``fcn-deploy serve``: a run's network behind HTTP."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fcn_deploy.commands.shared.backends import require_backends, say_unusual
from fcn_deploy.commands.shared.code_options import trust_option
from fcn_deploy.commands.shared.console import console
from fcn_deploy.commands.shared.logits_check import logits_check
from fcn_deploy.commands.shared.options import (
    PathType,
    device_option,
    precision_options,
    run_argument,
    threads_option,
)
from fcn_deploy.commands.shared.proven_backend import (
    auto_backend_option,
    choose_backend,
    open_chosen,
)
from fcn_deploy.commands.shared.runs import run_from_argument
from fcn_deploy.core.errors import InputError
from fcn_deploy.core.extras import require_extra
from fcn_deploy.core.run import Run
from fcn_deploy.core.spec import Precision

if TYPE_CHECKING:
    from fcn_deploy.runners.base import Runner
    from fcn_deploy.serve.service import Service
    from fcn_deploy.serve.settings import Settings


@dataclass(frozen=True)
class ServeOptions:
    """What was typed; the fields are the parameters of :func:`serve`."""

    run: str | None
    backend: str
    allow: frozenset[str]
    precision: Precision
    device: str
    threads: int | None
    trust: bool
    host: str
    port: int
    grpc_port: int | None
    max_batch: int
    max_delay_ms: float
    max_queue: int
    max_pixels: int
    drain_seconds: float
    token_file: Path | None
    insecure: bool
    check: bool


def _address_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add where the server listens and who may ask it."""
    for option in reversed(
        (
            click.option(
                "--host", default="127.0.0.1", show_default=True,
                help="Listen on this address; one that other machines reach needs --token-file.",
            ),
            click.option(
                "--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
                help="Listen on this port; 0 takes a free one, which the log names.",
            ),
            click.option(
                "--grpc-port", type=click.IntRange(0, 65535),
                help="Answer gRPC too, on this port of the same address; 0 takes a free one.",
            ),
            click.option(
                "--token-file", type=PathType(),
                help="Answer only requests that bear the token in this file, as Authorization: "
                "Bearer TOKEN; health and the page stay open.",
            ),
            click.option(
                "--insecure", is_flag=True,
                help="Listen on an address that other machines reach without asking for a token.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add how much is taken at once."""
    for option in reversed(
        (
            click.option(
                "--max-batch", type=click.IntRange(min=1), default=8, show_default=True,
                help="Compute at most so many pictures of one size at once.",
            ),
            click.option(
                "--max-delay-ms", type=click.FloatRange(0, 10_000), default=0.0, show_default=True,
                help="Let a request wait so long for others of its size while the runner is free.",
            ),
            click.option(
                "--max-queue", type=click.IntRange(min=1), default=64, show_default=True,
                help="Let so many requests wait; further ones are refused with 503.",
            ),
            click.option(
                "--max-pixels", type=click.IntRange(1, 100_000_000), default=4096 * 4096,
                show_default=True, help="Refuse requests whose pictures have more pixels together.",
            ),
            click.option(
                "--drain-seconds", type=click.FloatRange(0, 3600), default=5.0, show_default=True,
                help="Serve on for so long after SIGTERM, while /v2/health/ready answers 503.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@run_argument
@auto_backend_option
@precision_options
@device_option
@threads_option
@trust_option
@_address_options
@_limit_options
@click.option(
    "--check", is_flag=True,
    help="Open everything, compute once, say what would be served, and end.",
)  # fmt: skip
def serve(**typed: Any) -> None:
    """Answer requests for masks over HTTP and gRPC, by the Open Inference protocol (KServe v2)."""
    options = ServeOptions(**typed)
    require_extra("serving over HTTP", "serve", "prometheus_client", "starlette", "uvicorn")
    if options.grpc_port is not None:
        # Its core writes lines of its own to stderr, where the log is JSON.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        require_extra("serving over gRPC", "grpc", "grpc", "tritonclient.grpc")
    from fcn_deploy.serve import server
    from fcn_deploy.serve.logs import configure_logs
    from fcn_deploy.serve.service import Service

    settings = _settings(options)
    source = run_from_argument(options.run, options.trust)
    if settings.grpc_port is not None:  # a port that is taken shows before the model is opened
        server.listen(settings.host, settings.grpc_port).close()
    with server.listen(settings.host, settings.port) as bound, ExitStack() as stack:
        runner = _open(source, options)
        check = logits_check(
            source,
            runner.describe(),
            stack,
            precision=options.precision,
            threads=options.threads,
            device=options.device,
        )
        service = Service(runner, settings, source.name, has_finite_logits=check)
        if options.check:
            import asyncio

            asyncio.run(_check(service, server.url_of(bound)))
        else:
            configure_logs()
            server.serve(service, bound)
    say_unusual([service.description])


def _settings(options: ServeOptions) -> Settings:
    from fcn_deploy.serve.settings import Settings

    token = None if options.token_file is None else _token(options.token_file)
    if token is None and not options.insecure and not _is_loopback(options.host):
        raise InputError(
            f"--host {options.host} may be reached by other machines, and there is no token",
            "give --token-file FILE, or --insecure where a proxy guards it",
        )
    return Settings(
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        max_batch=options.max_batch,
        max_delay_ms=options.max_delay_ms,
        max_queue=options.max_queue,
        max_pixels=options.max_pixels,
        drain_seconds=options.drain_seconds,
        token=token,
    )


def _token(path: Path) -> bytes:
    """Return the token that a file holds, without the line's end."""
    token = path.read_bytes().strip()
    if not token or not all(33 <= byte < 127 for byte in token):
        raise InputError(
            f"{path} must hold one token of printable ASCII without spaces",
            "write one with `openssl rand -hex 32`",
        )
    return token


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open(source: Run, options: ServeOptions) -> Runner:
    chosen = choose_backend(
        source,
        options.backend,
        precision=options.precision,
        allowed=options.allow,
        device=options.device,
    )
    require_backends([chosen.backend], options.device)
    return open_chosen(source, chosen, device=options.device, threads=options.threads)


async def _check(service: Service, url: str) -> None:
    """Warm up, and print what would be served."""
    try:
        await service.start(console.print)
    finally:
        await service.close()
    runner, spec, settings = service.description, service.spec, service.settings
    asked = "without a token" if settings.token is None else "to those who bear the token"
    console.print(f"would serve {service.name} on {url}, {asked}")
    if settings.grpc_port is not None:
        console.print(f"and over gRPC on port {settings.grpc_port or 'that is free'}")
    console.print(f"computed by {runner.backend} on {runner.device} in {runner.precision}")
    console.print(f"{spec.num_classes} classes: {', '.join(spec.class_names)}")
    console.print(
        f"pictures: {spec.input_shape.size_words}, {settings.max_pixels} pixels a request, "
        f"{service.max_batch} in a batch, {settings.max_queue} waiting"
    )
