"""Pools in FastAPI and Starlette: opened and stopped with the application, and handed to its endpoints.

It imports Starlette alone, so it serves an application of Starlette as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Lifespan

from prodpool.errors import RejectedError, TaskExpiredError
from prodpool.integrations.asgi import ASGIRefusals
from prodpool.integrations.refusals import refusal_of
from prodpool.pool import InstrumentedPool

T = TypeVar("T")
PoolSource: TypeAlias = "InstrumentedPool | Callable[[], InstrumentedPool]"
StatefulLifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]

# Where the pools are in the lifespan's state, and so in ``request.state``: a mapping of names to pools.
STATE_KEY = "worker_pools"
# nginx's status for a client that did not wait for the answer. Nobody receives it.
CLIENT_CLOSED_REQUEST = 499


def add_refusal_handlers(app: Starlette) -> None:
    """Have ``app`` answer a request with 429 or 503 where an endpoint raises what a pool refused work with.

    They are exception handlers, so the application's middleware sees such an answer as it sees any other. A
    handler that the application has for one of these errors already stays. To a websocket the middleware
    ``ASGIRefusals`` answers, which is added here too. Middleware that is added later is outside of it, and
    what such middleware raises is not answered.

    Args:
        app: An application of FastAPI or Starlette. One that is mounted in another needs handlers of its own.

    Raises:
        RuntimeError: The application has started.
    """
    app.add_middleware(ASGIRefusals)
    for kind in (RejectedError, TaskExpiredError, ExceptionGroup):
        if kind not in app.exception_handlers:
            app.add_exception_handler(kind, _refuse)


async def _refuse(request: Request, error: Exception) -> Response:
    refusal = refusal_of(error)
    # The middleware knows whether a websocket was accepted, and a group may be of any errors.
    if refusal is None or request.scope["type"] == "websocket":
        raise error
    return Response(refusal.body, refusal.status, dict(refusal.headers))


def pool_lifespan(
    *pools: PoolSource, lifespan: Lifespan[Any] | None = None, deadline: float | None = None
) -> StatefulLifespan:
    """Return a lifespan that opens pools at the application's start and stops them at its end.

    They are stopped in reverse order, so that tasks of a pool may submit to pools that are named before it.
    A pool whose turn has not come goes on working. So the order takes no time, and one deadline is enough for
    all of them. Meanwhile the event loop goes on: tasks that call back into it finish.

    Args:
        pools: Functions that make a pool, which are called at each start of the application; or pools. A pool
            that was stopped cannot be opened again, so a pool itself is for an application that starts once.
        lifespan: The application's own. It is entered before the pools are opened and left after they have
            stopped, so that their tasks can use what it provides, such as connections. Its state is kept, and
            so are its pools if it is a `pool_lifespan` itself.
        deadline: Seconds that the stop of all pools may take; None for the longest of their
            ``drain_deadline``. Each keeps to its own as well.

    Raises:
        ValueError: At the application's start: two pools are of one name.
        RuntimeError: At the application's start: a pool was stopped before.

    Source: fastapi.tiangolo.com/advanced/events/
    """

    @asynccontextmanager
    async def with_pools(app: Any) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            state = None if lifespan is None else await stack.enter_async_context(lifespan(app))
            opened = await stack.enter_async_context(_opened(pools, deadline))
            outer = dict(state or {})
            # The lifespan that was passed may be one of pools too.
            yield {**outer, STATE_KEY: {**outer.get(STATE_KEY, {}), **opened}}

    return with_pools


@asynccontextmanager
async def _opened(
    sources: Iterable[PoolSource], deadline: float | None
) -> AsyncIterator[Mapping[str, InstrumentedPool]]:
    opened: dict[str, InstrumentedPool] = {}
    try:
        for source in sources:
            pool = source if isinstance(source, InstrumentedPool) else source()
            if pool.stats().state != "open":
                raise RuntimeError(
                    f"pool {pool.name!r} was stopped before this start of the application: "
                    "pass pool_lifespan a function that makes it"
                )
            if opened.setdefault(pool.name, pool) is not pool:
                raise ValueError(f"two pools are named {pool.name!r}: give each a name of its own")
        yield opened
    finally:
        await _stop_all(list(opened.values()), deadline)


async def _stop_all(pools: list[InstrumentedPool], deadline: float | None) -> None:
    if deadline is None:
        deadline = max((pool.drain_deadline for pool in pools), default=0.0)
    ends = asyncio.get_running_loop().time() + deadline
    # Runs in reverse order, and each also if the coroutine was cancelled in the one before.
    async with AsyncExitStack() as stack:
        for pool in pools:
            stack.push_async_callback(_stop, pool, ends)


async def _stop(pool: InstrumentedPool, ends: float) -> None:
    left = max(0.0, ends - asyncio.get_running_loop().time())
    await pool.stop_async(min(left, pool.drain_deadline))


def pool_named(name: str) -> Callable[[HTTPConnection], Awaitable[InstrumentedPool]]:
    """Return a dependency that gives a pool of the application's `pool_lifespan`.

    As in ``Annotated[InstrumentedPool, Depends(pool_named("thumbnails"))]``. In Starlette, where there are no
    dependencies, ``request.state.worker_pools["thumbnails"]`` is the same pool.

    Args:
        name: The pool's name.

    Raises:
        LookupError: At the request: the lifespan has opened no pool of that name, or was not run.
    """

    async def find_pool(connection: HTTPConnection) -> InstrumentedPool:
        opened: Mapping[str, InstrumentedPool] = getattr(connection.state, STATE_KEY, {})
        if name not in opened:
            raise LookupError(
                f"there is no pool {name!r} in the application's lifespan, but {sorted(opened)}: pass it to "
                "pool_lifespan"
            )
        return opened[name]

    return find_pool


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await ``work`` and return its result, but cancel it as soon as the client has closed the connection.

    As in ``await cancel_on_disconnect(request, pool.run(render, page))``. Neither FastAPI nor uvicorn cancels
    an endpoint whose client has gone.

    Args:
        request: Read its body before, if it is wanted: what is left of it is read here and dropped. Of two
            calls at the same time only one may be told that the client has gone, so make one for a request.
        work: A coroutine or a future.

    Raises:
        HTTPException: 499, the client has gone. Nobody receives that answer.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_cancel_when_gone(request, task))
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if not watcher.done() or (current is not None and current.cancelling()):
            raise
        raise HTTPException(CLIENT_CLOSED_REQUEST, "Client Closed Request") from None
    finally:
        # No other reader of the connection may meet it there.
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _cancel_when_gone(request: Request, task: asyncio.Future[Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    task.cancel()
