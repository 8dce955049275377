"""A gRPC server whose RPCs are tasks of a pool.

``grpc.server`` submits each RPC from the one thread that serves all connections. An executor that raises
there ends that thread, and with it the service; one that blocks there keeps running RPCs from their messages.
So ``submit`` does neither here: an RPC that the pool refuses is answered at once, which waits for nothing.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial, wraps
from typing import Any, NamedTuple, NoReturn

import grpc

from prodpool.errors import PoolClosedError, RejectedError, TaskExpiredError, WorkerLostError
from prodpool.integrations.refusals import refusal_of
from prodpool.pool import InstrumentedPool
from prodpool.text import shown

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
        pool: A pool whose tasks run in threads of this process.
        handlers: As for ``grpc.server``.
        interceptors: Likewise. Their ``intercept_service`` is called for RPCs that are refused, too. The
            handlers that it returns are not.
        maximum_concurrent_rpcs: RPCs that the server takes; None for twice the pool's capacity. Those beyond
            the capacity are refused by the pool, which counts them and says when to retry. Those beyond this
            number are refused by grpc, as they may be once ``pool.resize`` has raised the capacity.
        **options: As for ``grpc.server``.

    Raises:
        TypeError: ``pool`` is known to run its tasks in other processes, or is no pool.

    Source: grpc.server, grpc.github.io/grpc/python/grpc.html
    """
    _check_pool(pool)
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


def _check_pool(pool: Any) -> None:
    if not isinstance(pool, InstrumentedPool):
        raise TypeError(
            f"pool={shown(pool)} is not an InstrumentedPool over a pool of threads: instead of a view pass "
            "its pool, instead of an executor prodpool.threads(...) or InstrumentedPool(executor, ...)"
        )
    if pool._engine.abilities.dumps is not None:  # noqa: SLF001  # the pool has no public word for it
        raise TypeError(
            f"pool={shown(pool)} runs tasks in other processes, where no RPC can be sent: pass a pool of "
            "threads, such as prodpool.threads(...), and submit to this one in the handlers"
        )


class _CurrentRpc(threading.local):
    """What the calling thread is just about to submit, or to refuse."""

    method: str | None = None
    refused_with: BaseException | None = None


_current = _CurrentRpc()


class _Rpc:
    """What grpc has submitted for an RPC. Either the pool runs it or it is refused, and only once."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._taken = threading.Lock()

    def __call__(self) -> None:
        """Run it, in a worker of the pool."""
        if self._taken.acquire(blocking=False):
            self._call()

    def refuse(self, error: BaseException) -> None:
        """Run it up to the handler, in whose place `_guarded` answers; unless it has begun."""
        if not self._taken.acquire(blocking=False):
            return
        before, _current.refused_with = _current.refused_with, error
        try:
            self._call()
        except Exception:
            # The server and the pool, one of which calls this, have to go on.
            logging.getLogger("prodpool").exception("an RPC could not be answered")
        finally:
            _current.refused_with = before


class _RpcExecutor(Executor):
    """Submits RPCs to a pool. ``submit`` never raises and never blocks."""

    def __init__(self, pool: InstrumentedPool) -> None:
        # Whatever the policy: to wait, or to run the RPC, would hold up all the others.
        self._view = pool.options(wait=0.0)
        self._unnamed = self._view.options(task="rpc")
        self._pool = pool.name

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit an RPC; one that the pool refuses is answered here."""
        rpc = _Rpc(partial(fn, *args, **kwargs))
        try:
            future: Future[Any] = self._view_for(_current.method).submit(rpc)
        except Exception as error:  # noqa: BLE001  # whatever it is, the server has to go on
            rpc.refuse(error)
            future = Future()
            future.set_result(None)
        else:
            future.add_done_callback(partial(self._answer_unrun, rpc))
        return future

    def _view_for(self, method: str | None) -> Executor:
        try:
            return self._view.options(task=method)
        except ValueError:  # the client has chosen a name that is none
            return self._unnamed

    def _answer_unrun(self, rpc: _Rpc, future: Future[Any]) -> None:
        """Answer an RPC that the pool has ended before it began, as when it stops or its executor breaks."""
        error = None if future.cancelled() else future.exception()
        if error is None or isinstance(error, WorkerLostError):
            error = PoolClosedError(pool=self._pool)
        rpc.refuse(error)


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
        return _guarded(handler)


def _guarded(handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
    """Return a handler that answers an RPC that was refused, before or in the behavior of ``handler``.

    Its requests are a stream even if there is one message: grpc reads that before it calls a unary handler,
    so that a refusal would have to wait for a client that sends none.
    """
    sides = (handler.request_streaming, handler.response_streaming)
    behavior = getattr(handler, "_".join("stream" if streaming else "unary" for streaming in sides))

    @wraps(behavior)  # the attributes as well, by which grpc chooses how it calls a behavior
    def guarded(requests: Any, context: grpc.ServicerContext, *send_response: Any) -> Any:
        if _current.refused_with is not None:
            _refuse(context, _current.refused_with)
        request = requests if handler.request_streaming else _only_message(requests, context, handler)
        try:
            response = behavior(request, context, *send_response)
        except (RejectedError, TaskExpiredError, ExceptionGroup) as error:
            _abort(context, error)
        # What is handed to `send_response` is not returned.
        returns_stream = handler.response_streaming and not send_response
        return _guarded_responses(response, context) if returns_stream else response

    make: Callable[..., grpc.RpcMethodHandler] = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    return make(
        guarded,
        request_deserializer=handler.request_deserializer if handler.request_streaming else None,
        response_serializer=handler.response_serializer,
    )


def _only_message(requests: Iterator[bytes], context: Any, handler: grpc.RpcMethodHandler) -> Any:
    """Wait for the message of a unary request; end the RPC, as grpc does, if there is none or a bad one."""
    serialized = next(requests, None)
    if serialized is None:
        # It raises, as it does below.
        return context.abort(
            grpc.StatusCode.UNIMPLEMENTED, "The method requires exactly one request message."
        )
    if handler.request_deserializer is None:
        return serialized
    try:
        return handler.request_deserializer(serialized)
    except Exception:
        logging.getLogger("prodpool").exception("a request could not be deserialized")
        return context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def _guarded_responses(responses: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    try:
        yield from responses
    except (RejectedError, TaskExpiredError, ExceptionGroup) as error:
        _abort(context, error)


def _refuse(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """End an RPC that never ran. The client is not told what ``error`` says, unless it is a refusal."""
    if status_of(error) is None:
        logging.getLogger("prodpool").error("an RPC could not be run", exc_info=error)
        context.abort(grpc.StatusCode.INTERNAL, "the RPC could not be run")
    _abort(context, error)


def _abort(context: grpc.ServicerContext, error: BaseException) -> NoReturn:
    """End the RPC with the status of ``error``; what is no refusal, grpc logs and answers as UNKNOWN."""
    status = status_of(error)
    if status is None:
        raise error
    # A client does not retry where there are two pushbacks.
    handlers_own = [pair for pair in context.trailing_metadata() or () if pair[0] != _PUSHBACK]
    context.set_trailing_metadata((*handlers_own, *status.trailing_metadata))
    context.abort(status.code, status.details)
    raise error  # `abort` has raised
