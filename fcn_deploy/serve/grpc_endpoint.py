"""Open Inference over gRPC: the calls of ``tritonclient.grpc``, beside HTTP on the same service.

Every call comes here as bytes that have not been read: who may not ask is refused before.  So the
handlers are made from the protocol's description, and not by the code that is generated from it,
which reads and parses a message first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from fcn_deploy.core.errors import DeviceMemoryError, FcnDeployError, InputError
from fcn_deploy.serve import descriptions
from fcn_deploy.serve.errors import (
    MemoryFullError,
    QueueFullError,
    RequestError,
    UnsupportedError,
    sentence_of,
    status_of,
)
from fcn_deploy.serve.grpc_tensors import images_of, parsed, rendered, split
from fcn_deploy.serve.middleware import request_id, require_token
from fcn_deploy.serve.service import Answer, Service
from fcn_deploy.serve.settings import Settings

_LOG = logging.getLogger("fcn_deploy.serve")
_SERVICE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
#: Asked by balancers, which bear no token.
_OPEN = frozenset({"ServerLive", "ServerReady"})
_CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    404: StatusCode.NOT_FOUND,
    408: StatusCode.DEADLINE_EXCEEDED,
    413: StatusCode.INVALID_ARGUMENT,
    503: StatusCode.UNAVAILABLE,
}
#: What another server, or the same one a moment later, may take.
_EXHAUSTED = (QueueFullError, MemoryFullError, DeviceMemoryError)

_Answering = Callable[[bytes, "_Call"], Awaitable[Any]]


class _LateError(RequestError):
    """The message did not come in time."""

    status = 408


def code_of(error: Exception) -> StatusCode:
    """Return gRPC's status of an error."""
    if isinstance(error, UnsupportedError):
        return StatusCode.UNIMPLEMENTED
    if isinstance(error, _EXHAUSTED):
        return StatusCode.RESOURCE_EXHAUSTED
    return _CODES.get(status_of(error), StatusCode.INTERNAL)


class GrpcEndpoint:
    """A gRPC server of a service; created, started and stopped on the service's event loop.

    Args:
        service: which computes.

    Attributes:
        port: on which it listens, once it does.
    """

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self.port = 0
        self._service = service
        # The core holds a message whole before its length is known here.
        self._places = asyncio.Semaphore(
            max(1, settings.max_memory_bytes // settings.max_body_bytes)
        )
        self._given_up_at: float | None = None
        self._server = grpc.aio.server(
            options=_options(settings), maximum_concurrent_rpcs=settings.max_connections
        )
        answering = _Calls(service).by_method()
        handlers = {
            name: self._handler(name, answering.get(name, _unsupported(name)))
            for name in _SERVICE.methods_by_name
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_SERVICE.full_name, handlers),)
        )

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Args:
            host: the address.
            port: 0: a free one.

        Raises:
            InputError: the address is none of this machine's, or is taken.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise InputError(
                f"cannot listen on {host} port {port}", "choose another with --grpc-port"
            ) from error
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Take no more calls, and wait for the answers of those that were taken.

        Args:
            seconds: after which they are given up.
        """
        self._given_up_at = asyncio.get_running_loop().time() + seconds
        await self._server.stop(seconds)

    def _handler(self, name: str, answering: _Answering) -> Any:
        async def handle(_: Any, context: Any) -> Any:
            call = _Call(self._service, name, context)
            context.add_done_callback(lambda _: call.record(self._gave_up()))
            context.set_trailing_metadata((("x-request-id", call.id),))
            try:
                if (token := self._service.settings.token) is not None and name not in _OPEN:
                    require_token(token, call.header("authorization"))
                if name == "ModelInfer":
                    self._service.require_room()
                message = await self._read(context)
                call.accept(message)
                return await answering(message, call)
            except Exception as error:
                # Without a traceback, which would hold the message; of our mistakes it is logged.
                refused = isinstance(error, FcnDeployError)
                call.error = error.with_traceback(None) if refused else error
            return await context.abort(code_of(call.error), sentence_of(call.error))

        # A unary call is a stream of one message, which is read when it is wanted.
        return grpc.stream_unary_rpc_method_handler(
            handle, response_serializer=lambda message: message.SerializeToString()
        )

    def _gave_up(self) -> bool:
        at = self._given_up_at
        return at is not None and asyncio.get_running_loop().time() >= at

    async def _read(self, context: Any) -> bytes:
        async def read() -> Any:
            async with self._places:
                return await context.read()

        seconds = self._service.settings.body_seconds
        try:
            message = await asyncio.wait_for(read(), seconds)
        except asyncio.TimeoutError:
            raise _LateError(f"the message did not come in {seconds:g} s") from None
        if not isinstance(message, bytes):
            raise RequestError("the call has no message, or one that is too large or compressed")
        return message


class _Calls:
    """What is answered to each method."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def by_method(self) -> dict[str, _Answering]:
        return {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._infer,
        }

    async def _server_live(self, message: bytes, call: _Call) -> Any:
        parsed(service_pb2.ServerLiveRequest, message)
        return service_pb2.ServerLiveResponse(live=True)

    async def _server_ready(self, message: bytes, call: _Call) -> Any:
        parsed(service_pb2.ServerReadyRequest, message)
        return service_pb2.ServerReadyResponse(ready=self._service.ready)

    async def _server_metadata(self, message: bytes, call: _Call) -> Any:
        parsed(service_pb2.ServerMetadataRequest, message)
        return ParseDict(descriptions.server_metadata(), service_pb2.ServerMetadataResponse())

    async def _model_ready(self, message: bytes, call: _Call) -> Any:
        self._named(service_pb2.ModelReadyRequest, message)
        return service_pb2.ModelReadyResponse(ready=self._service.ready)

    async def _model_metadata(self, message: bytes, call: _Call) -> Any:
        self._named(service_pb2.ModelMetadataRequest, message)
        described = descriptions.model_metadata(self._service)
        return ParseDict(described, service_pb2.ModelMetadataResponse())

    async def _model_config(self, message: bytes, call: _Call) -> Any:
        self._named(service_pb2.ModelConfigRequest, message)
        config = descriptions.model_config(self._service)
        return ParseDict({"config": config}, service_pb2.ModelConfigResponse())

    async def _model_statistics(self, message: bytes, call: _Call) -> Any:
        request = parsed(service_pb2.ModelStatisticsRequest, message)
        if request.name:  # without one, those of all models are meant
            self._service.require_model(request.name, request.version or None)
        counted = descriptions.model_statistics(self._service)
        return ParseDict(counted, service_pb2.ModelStatisticsResponse())

    async def _infer(self, message: bytes, call: _Call) -> Any:
        request, raw = split(message)
        service = self._service
        service.require_model(request.model_name, request.model_version or None)
        images = images_of(request, raw, service.require_size)
        # A client that goes away cancels this, and so leaves the queue.
        call.answer = await service.infer(images)
        return rendered(call.answer.mask, request, service.name, service.VERSION)

    def _named(self, kind: Any, message: bytes) -> None:
        request = parsed(kind, message)
        self._service.require_model(request.name, request.version or None)


def _unsupported(name: str) -> _Answering:
    async def refuse(message: bytes, call: _Call) -> Any:
        raise UnsupportedError(f"{name} is not supported")

    return refuse


class _Call:
    """One call on its way: what came in of it and what becomes of it."""

    def __init__(self, service: Service, method: str, context: Any) -> None:
        self.began = time.perf_counter()
        self.error: Exception | None = None
        self.answer: Answer | None = None
        self._service = service
        self._method = method
        self._headers = dict(context.invocation_metadata() or ())
        self._context = context
        self._bytes = 0
        self._is_accepted = False
        self._client = context.peer().partition(":")[2].rpartition(":")[0]
        self.id = request_id(self.header("x-request-id"))

    def header(self, name: str) -> bytes:
        value = self._headers.get(name, b"")
        return value if isinstance(value, bytes) else value.encode("utf-8", "replace")

    def accept(self, message: bytes) -> None:
        self._is_accepted = True
        self._service.metrics.accepted += 1
        self._bytes = len(message)
        self._service.take_memory(self._bytes)

    def record(self, gave_up: bool) -> None:
        """Count and log the call, once its answer is out or its client has gone."""
        service = self._service
        service.take_memory(-self._bytes)
        cancelled = self.error is None and self._context.cancelled()
        # As over HTTP: who has gone is owed nothing; whom the server gave up had no answer.
        service.metrics.answered += self._is_accepted and not (cancelled and gave_up)
        status, code = 200, StatusCode.OK
        if self.error is not None:
            status, code = status_of(self.error), code_of(self.error)
        elif cancelled:
            status, code = (503 if gave_up else 499), StatusCode.CANCELLED
        seconds = time.perf_counter() - self.began
        service.metrics.request_done(f"grpc_{self._method}", status)
        if status < 400 and self._method in _OPEN:
            return
        fields: dict[str, Any] = {
            "id": self.id,
            "client": self._client,
            "method": "gRPC",
            "path": f"/{_SERVICE.full_name}/{self._method}",
            "status": code.name,
            "bytes_in": self._bytes,
            "ms": round(seconds * 1000, 2),
        }
        if self.answer is not None:
            if status < 400:
                service.metrics.stage_seconds["total"].observe(seconds)
            fields["queue_ms"] = round(self.answer.queue_seconds * 1000, 2)
            fields["compute_ms"] = round(self.answer.compute_seconds * 1000, 2)
            fields["batch"] = self.answer.batch_size
        if self.error is not None:
            fields["error"] = str(self.error)
        ours = self.error is not None and not isinstance(self.error, FcnDeployError)
        level = logging.ERROR if code is StatusCode.INTERNAL else logging.INFO
        _LOG.log(level, "request", extra={"fields": fields}, exc_info=self.error if ours else None)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, as over HTTP
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_metadata_size", settings.max_head_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_head_bytes),
        # A compressed message is unpacked before its length is held against the limit.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", int(settings.head_seconds * 1000)),
        ("grpc.max_connection_idle_ms", int(settings.idle_seconds * 1000)),
    ]
