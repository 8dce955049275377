"""gRPC servers over pools, each on a port of its own: started by the tests beside it.

``python -m tests.services.grpc_app FOLDER NAME...`` serves those of `SERVERS` that are named, and leaves
their ports in the folder. SIGTERM ends them as a service should end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

import prodpool.integrations.grpc
from prodpool import InstrumentedPool, PoolFullError
from prodpool.config.settings import Overload
from prodpool.integrations.grpc import status_of
from prodpool.task.outcomes import Reason
from tests.helpers.waiting import until

POOLS: dict[str, InstrumentedPool] = {}
FOLDER = Path(sys.argv[1])


def pool(name: str, overload: Overload = "reject", executor: Executor | None = None) -> InstrumentedPool:
    """Build a pool of two workers and two waiting places."""
    POOLS[name] = InstrumentedPool(
        executor or ThreadPoolExecutor(2),
        name=name,
        max_workers=2,
        queue_capacity=2,
        overload=overload,
        drain_deadline=20.0,
    )
    return POOLS[name]


def break_later() -> None:
    """Initialize a thread, which fails when the file is there."""
    until(Path(FOLDER, "break").exists)
    raise ConnectionError("no database")


class Unable(Executor):
    """Cannot run anything."""

    def submit(self, *_: Any, **__: Any) -> Any:
        """Say why."""
        future: Future[Any] = Future()
        future.set_exception(ValueError("a secret of the service"))
        return future


def wait(request: bytes, _: Any) -> bytes:
    """Answer when the file that the client has named is there."""
    until(Path(request.decode()).exists)
    return b"waited"


def task(_request: bytes, _: Any) -> bytes:
    """Answer with the name of the task that answers."""
    current = prodpool.current_task()
    return b"none" if current is None else current.name.encode()


def refuse(_request: bytes, _: Any) -> bytes:
    """Let the refusal of another pool pass."""
    raise PoolFullError(pool="another", queued=0, queue_capacity=0, retry_after=1.5)


def refuse_labelled(_request: bytes, context: Any) -> bytes:
    """Likewise, with trailing metadata."""
    context.set_trailing_metadata((("request-id", "7"), ("grpc-retry-pushback-ms", "1")))
    return refuse(b"", context)


def watch(request: bytes, _context: Any, send_response: Callable[[bytes | None], None]) -> None:
    """Send responses by a callback."""
    if not request:
        refuse(b"", None)
    send_response(request)
    send_response(None)


watch.experimental_non_blocking = True  # type: ignore[attr-defined]


def serving(_request: bytes, _: Any) -> bytes:
    """Answer a health check, in a thread of its own."""
    return b"serving"


serving.experimental_thread_pool = ThreadPoolExecutor(1)  # type: ignore[attr-defined]


class AnyName(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Serves methods of any name in a service."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Answer all of them with the name of the task."""
        named = handler_call_details.method.startswith("/any/")
        return grpc.unary_unary_rpc_method_handler(task) if named else None


def refuse_later(_request: bytes, context: Any) -> Iterator[bytes]:
    """Likewise, after a first message."""
    yield b"one"
    yield refuse(b"", context)


def fail(_request: bytes, _: Any) -> bytes:
    """Have a bug."""
    raise ValueError("a bug")


def join(requests: Iterator[bytes], _: Any) -> bytes:
    """Answer when the client has sent all."""
    return b"+".join(requests)


def stats(request: bytes, _: Any) -> bytes:
    """Answer with how many tasks a pool has in flight, and how many it has refused because it was full."""
    numbers = POOLS[request.decode()].stats()
    return json.dumps([numbers.in_flight, numbers.dropped[Reason.FULL]]).encode()


def stop(request: bytes, _: Any) -> bytes:
    """Stop another pool at once, against the rules: its server still serves."""
    POOLS[request.decode()].stop(deadline=0.0)
    return b"stopped"


async def run(request: bytes, context: Any) -> bytes:
    """Answer from a coroutine what a task returns."""
    try:
        future = POOLS["aio"].submit(wait, request, None)
    except PoolFullError as error:
        await context.abort(*(status_of(error) or ()))
        raise
    return await asyncio.wrap_future(future)


class Noting(grpc.ServerInterceptor):  # type: ignore[misc]  # it has no types
    """Counts the RPCs named Refuse that it is asked about, and those whose handler is called."""

    asked = called = 0

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Put a handler of its own around that of the method."""
        handler = continuation(handler_call_details)
        if handler_call_details.method != "/test.Test/Refuse":
            return handler
        self.asked += 1

        def noted(request: bytes, context: Any) -> bytes:
            self.called += 1
            return bytes(handler.unary_unary(request, context))

        return grpc.unary_unary_rpc_method_handler(noted)


NOTING = Noting()


def noted(_request: bytes, _: Any) -> bytes:
    """Answer with what the interceptor has counted."""
    return json.dumps([NOTING.asked, NOTING.called]).encode()


UNARY = {
    "Wait": wait,
    "Task": task,
    "Refuse": refuse,
    "RefuseLabelled": refuse_labelled,
    "Fail": fail,
    "Stats": stats,
    "Stop": stop,
    "Serving": serving,
    "Noted": noted,
}
METHODS = {name: grpc.unary_unary_rpc_method_handler(behavior) for name, behavior in UNARY.items()}
METHODS["RefuseLater"] = grpc.unary_stream_rpc_method_handler(refuse_later)
METHODS["Join"] = grpc.stream_unary_rpc_method_handler(join)
METHODS["Watch"] = grpc.unary_stream_rpc_method_handler(watch)
METHODS["Parse"] = grpc.unary_unary_rpc_method_handler(task, request_deserializer=json.loads)
HANDLERS = [grpc.method_handlers_generic_handler("test.Test", METHODS), AnyName()]


def bare(overload: Overload) -> grpc.Server:
    """Make a server as many would, which breaks when its pool is full."""
    return grpc.server(pool(overload, overload), handlers=HANDLERS)


def bounded() -> grpc.Server:
    """Make one that takes no more than its pool."""
    its = pool("bounded")
    return grpc.server(its, handlers=HANDLERS, maximum_concurrent_rpcs=its.capacity)


SERVERS: dict[str, Callable[[], grpc.Server]] = {
    "reject": lambda: bare("reject"),
    "block": lambda: bare("block"),
    "caller_runs": lambda: bare("caller_runs"),
    "bounded": bounded,
    "integrated": lambda: prodpool.integrations.grpc.server(
        pool("integrated", "caller_runs"), handlers=HANDLERS, interceptors=[NOTING]
    ),
    "stopped": lambda: prodpool.integrations.grpc.server(pool("stopped"), handlers=HANDLERS),
    "breaking": lambda: prodpool.integrations.grpc.server(
        pool("breaking", executor=ThreadPoolExecutor(2, initializer=break_later)), handlers=HANDLERS
    ),
    "unable": lambda: prodpool.integrations.grpc.server(pool("unable", executor=Unable()), handlers=HANDLERS),
}


async def serve_aio(name: str) -> None:
    """Serve with grpc.aio, whose handlers that are no coroutines run in a pool."""
    server = grpc.aio.server(migration_thread_pool=pool(name))
    run_handler = grpc.unary_unary_rpc_method_handler(run)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Test", {**METHODS, "Run": run_handler}),)
    )
    leave_port(name, server)
    await server.start()
    await server.wait_for_termination()


def leave_port(name: str, server: Any) -> None:
    """Tell the tests where a server listens."""
    made = FOLDER / f".{name}"
    made.write_text(str(server.add_insecure_port("127.0.0.1:0")))
    made.rename(FOLDER / f"{name}.port")


def main(names: list[str]) -> None:
    """Serve until SIGTERM comes, and then end the servers before their pools."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    servers = {name: SERVERS[name]() for name in names if name != "aio"}
    for name, server in servers.items():
        leave_port(name, server)
        server.start()
    if "aio" in names:
        threading.Thread(target=asyncio.run, args=(serve_aio("aio"),), daemon=True).start()
    ended.wait()
    # First no more RPCs come, and those that are there end. Then nothing submits to the pool any more.
    for stopped in [server.stop(grace=20.0) for server in servers.values()]:
        stopped.wait()
    for one in POOLS.values():
        one.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(sys.argv[2:])
