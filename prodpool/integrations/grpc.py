"""A gRPC server whose RPCs are tasks of a pool.

``grpc.server`` submits each RPC from the one thread that serves all connections. An executor that raises
there ends that thread, and with it the service; one that blocks there keeps running RPCs from their messages.
So ``submit`` does neither here: an RPC that the pool refuses is answered in a thread of its own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial, wraps
from typing import Any, NamedTuple, NoReturn

import grpc

from prodpool.errors import PoolClosedError, RejectedError, TaskExpiredError, UnpicklableError
from prodpool.integrations.refusals import refusal_of
from prodpool.pool import InstrumentedPool
from prodpool.workers.threads.daemon_executor import DaemonThreadExecutor

# Read by clients that retry. Source: gRFC A6, "Pushback".
_PUSHBACK = "grpc-retry-pushback-ms"


class RpcStatus(NamedTuple):
    """How an RPC ends, in the order in which ``abort`` of a ``grpc.aio`` context takes it.

    Attributes:
        code: RESOURCE_EXHAUSTED or UNAVAILABLE.
        details: A short text. It says nothing about the inside of the service.
        trailing_metadata: ``grpc-retry-pushback-ms``, after which a client that retries does so.
    """

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...]


def status_of(error: BaseException) -> RpcStatus | None:
    """Return how an RPC ends whose work was refused with ``error``; None for any other error.

    RESOURCE_EXHAUSTED where HTTP would say 429, UNAVAILABLE where it would say 503: see ``refusal_of``. In a
    coroutine: ``await context.abort(*status_of(error))``.
    """
    refusal = refusal_of(error)
    if refusal is None:
        return None
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if refusal.status == 429 else grpc.StatusCode.UNAVAILABLE  # noqa: PLR2004
    answer = json.loads(refusal.body)
    return RpcStatus(code, f"refused: {answer['reason']}", ((_PUSHBACK, str(1000 * answer["retry_after"])),))


def server(
    pool: InstrumentedPool,
    *,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[grpc.ServerInterceptor] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    **options: Any,
) -> grpc.Server:
    """Make a ``grpc.server`` whose RPCs are tasks of ``pool``, each named by its method.

    An RPC that the pool refuses, or drops unrun, ends with what `status_of` returns, whatever the pool's
    overload policy. So does one whose handler lets such an error of any pool pass.

    Args:
        pool: A pool of threads.
        handlers: As for ``grpc.server``.
        interceptors: Likewise. They are called for RPCs that are refused, too.
        maximum_concurrent_rpcs: RPCs that the server takes; None for twice the pool's capacity. Those beyond
            the capacity are refused by the pool, which counts them and says when to retry. Each of them takes
            a thread for a moment, so there has to be a bound. Those beyond this number are refused by grpc.
        **options: As for ``grpc.server``.

    Source: grpc.server, grpc.github.io/grpc/python/grpc.html
    """
    limit = 2 * pool.capacity if maximum_concurrent_rpcs is None else maximum_concurrent_rpcs
    executor: Any = _RpcExecutor(pool)  # all that it is asked for is `submit`
    return grpc.server(
        executor,
        handlers=list(handlers or ()),
        # The first: its wrapper is called before those of the others.
        interceptors=[_RefusingInterceptor(), *(interceptors or ())],
        maximum_concurrent_rpcs=limit,
        **options,
    )


class _CurrentRpc(threading.local):
    """What the calling thread is just about to submit, or to refuse."""

    method: str | None = None
    refused_with: BaseException | None = None


_current = _CurrentRpc()


class _RpcExecutor(Executor):
    """Submits RPCs to a pool. ``submit`` never raises and never blocks."""

    def __init__(self, pool: InstrumentedPool) -> None:
        # Whatever the policy: to wait, or to run the RPC, would hold up all the others.
        self._view = pool.options(wait=0.0)
        self._pool = pool.name
        self._refusals = DaemonThreadExecutor(f"prodpool-grpc-{pool.name}")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit an RPC; one that is refused is answered in a thread of its own."""
        view, method = self._view, _current.method
        with suppress(ValueError):  # the client has chosen a name that is none
            view = view.options(task=method)
        try:
            future = view.submit(fn, *args, **kwargs)
            future.add_done_callback(partial(self._answer_unrun, partial(fn, *args, **kwargs)))
        except Exception as error:  # noqa: BLE001  # whatever it is, the server has to go on
            return self._refuse(error, partial(fn, *args, **kwargs))
        return future

    def _refuse(self, error: BaseException, call: Callable[[], None]) -> Future[Any]:
        try:
            return self._refusals.submit(_call_refused, error, call)
        except RuntimeError as no_thread:
            # The client waits until its deadline.
            unanswered: Future[Any] = Future()
            unanswered.set_exception(no_thread)
            return unanswered

    def _answer_unrun(self, call: Callable[[], None], future: Future[Any]) -> None:
        """Answer an RPC that was dropped from the queue by a stop, or cannot be sent to a worker process."""
        if future.cancelled():
            self._refuse(PoolClosedError(pool=self._pool), call)
        elif isinstance(error := future.exception(), UnpicklableError):
            self._refuse(error, call)


def _call_refused(error: BaseException, call: Callable[[], None]) -> None:
    """Run what grpc has submitted up to the handler, in whose place `_guarded` answers."""
    _current.refused_with = error
    try:
        call()
    finally:
        _current.refused_with = None


class _RefusingInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Names the RPC that is about to be submitted, and puts `_guarded` around its handler."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Return the guarded handler; None, as the others say it, for a method that there is none of."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        # grpc submits it next, in this thread.
        _current.method = handler_call_details.method
        kind = "_".join(
            "stream" if streaming else "unary"
            for streaming in (handler.request_streaming, handler.response_streaming)
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        guarded: grpc.RpcMethodHandler = make(
            _guarded(getattr(handler, kind), streams=handler.response_streaming),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return guarded


def _guarded(behavior: Callable[..., Any], *, streams: bool) -> Callable[..., Any]:
    """Return what answers an RPC that was refused, before or in ``behavior``."""

    @wraps(behavior)
    def guarded(request: Any, context: grpc.ServicerContext) -> Any:
        if _current.refused_with is not None:
            _abort(context, _current.refused_with)
        try:
            response = behavior(request, context)
        except (RejectedError, TaskExpiredError, ExceptionGroup) as error:
            _abort(context, error)
        return _guarded_responses(response, context) if streams else response

    return guarded


def _guarded_responses(responses: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    try:
        yield from responses
    except (RejectedError, TaskExpiredError, ExceptionGroup) as error:
        _abort(context, error)


def _abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """End the RPC with the status of ``error``; what is no refusal, grpc logs and answers as UNKNOWN."""
    status = status_of(error)
    if status is None:
        raise error
    context.set_trailing_metadata(status.trailing_metadata)
    context.abort(status.code, status.details)
    raise error  # `abort` has raised
