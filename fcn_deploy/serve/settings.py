"""Settings: what a server is told when it starts, and all of its limits."""

from __future__ import annotations

from dataclasses import dataclass

#: What stands beside the pixels of a request: names, shapes, parameters.
HEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Settings:
    """How a server answers, and what it refuses.

    Attributes:
        host: address to listen on.
        port: to listen on; 0: a free one.
        grpc_port: to listen on for gRPC; 0: a free one; None: for HTTP alone.
        max_batch: pictures that are computed at once, and at most in one request.
        max_delay_ms: how long a request waits for others of its size while the runner is free.
        max_queue: requests that wait; one more is refused with 503.
        max_pixels: pixels of a request, of all of its pictures together.
        drain_seconds: how long requests are taken after SIGTERM, while ``ready`` says 503.
        token: that every request but those for health and the page must bear, or None.
        close_seconds: how long, after that, requests that were accepted may take.
        max_json_bytes: of a request's JSON, with the values where these are not binary.
        max_memory_bytes: of all bodies that are in memory at once, and of the answers that slow
            clients have not read yet; decoded pictures may take as much again.
        max_connections: that are open at once.
        max_head_bytes: of a request's line and headers together.
        max_headers: of a request.
        head_seconds: in which a request's head must have come.
        body_seconds: in which its body must have come, plus a second for each
            ``min_bytes_per_second`` that did come.
        min_bytes_per_second: see ``body_seconds``.
        send_seconds: in which a client must have read so much that more can be sent.
        idle_seconds: how long a connection without a request is kept.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    max_batch: int = 8
    max_delay_ms: float = 0.0
    max_queue: int = 64
    max_pixels: int = 4096 * 4096
    drain_seconds: float = 5.0
    token: bytes | None = None
    close_seconds: float = 30.0
    max_json_bytes: int = 8 * 1024 * 1024
    max_memory_bytes: int = 1024 * 1024 * 1024
    max_connections: int = 512
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    min_bytes_per_second: float = 16 * 1024
    send_seconds: float = 60.0
    idle_seconds: float = 75.0

    @property
    def max_body_bytes(self) -> int:
        """Bytes of a request's body: the pixels, and the JSON beside them."""
        return 3 * self.max_pixels + HEAD_BYTES
