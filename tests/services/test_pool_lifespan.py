"""The parts of `prodpool.integrations.fastapi`, without a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prodpool import InstrumentedPool, PoolFullError
from prodpool.integrations.fastapi import (
    add_refusal_handlers,
    cancel_on_disconnect,
    pool_lifespan,
    pool_named,
)
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import LEEWAY, PATIENCE, until
from tests.support import MakePool

pytestmark = pytest.mark.once
FULL = PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1)


@pytest.fixture
def make(make_pool: MakePool) -> Callable[..., Callable[[], InstrumentedPool]]:
    """Return what returns a function that makes a pool of that name and with these options."""

    def maker(name: str, workers: int = 1, **options: Any) -> Callable[[], InstrumentedPool]:
        return lambda: make_pool(workers, name=name, **options)

    return maker


Make = Callable[..., Callable[[], InstrumentedPool]]


async def test_stopped_in_reverse_order(make: Make) -> None:
    """A task that ends while its pool is stopped can submit to the pools named before, and be answered."""
    async with pool_lifespan(make("store"), make("fetch"))(None) as state:
        store, fetch = state["worker_pools"].values()

        def fetch_one() -> int:
            until(lambda: fetch.stats().state == "draining")
            return int(store.submit(abs, -5).result(PATIENCE))

        fetched = fetch.submit(fetch_one)
    assert fetched.result(0) == 5
    assert {pool.stats().state for pool in (store, fetch)} == {"stopped"}


async def test_one_deadline(make: Make) -> None:
    """A pool that hangs takes the others no time: they go on working, and all end by the deadline."""
    task = BlockingTask()
    async with pool_lifespan(make("first"), make("hung", drain_deadline=60.0), deadline=0.5)(None) as state:
        first, hung = state["worker_pools"].values()
        hung.submit(task)
        task.wait_started()
        ran = first.submit(abs, -5)
        began = time.monotonic()
    assert time.monotonic() - began < 0.5 + LEEWAY
    task.release()
    assert ran.result(0) == 5


async def test_within_the_applications_own(make: Make) -> None:
    """The application's lifespan is entered first and left last, and its state is there beside the pools."""
    events: list[str] = []

    @asynccontextmanager
    async def own(app: str) -> AsyncIterator[dict[str, str]]:
        events.append(f"{app} begins")
        yield {"database": "connected"}
        events.append("ends")

    async with pool_lifespan(make("orders"), lifespan=own)("app") as state:
        pool = state["worker_pools"]["orders"]
        assert state["database"] == "connected"

        def use_database() -> None:
            until(lambda: pool.stats().state == "draining")
            events.append("database used")

        pool.submit(use_database)
    assert events == ["app begins", "database used", "ends"]


async def test_lifespans_of_pools_in_one_another(make: Make) -> None:
    """The pools of both are there."""
    inner = pool_lifespan(make("store"))
    async with pool_lifespan(make("fetch"), lifespan=inner)(None) as state:
        assert set(state["worker_pools"]) == {"store", "fetch"}


async def test_started_again(make: Make) -> None:
    """A function makes a new pool at each start; a pool itself serves one start, and then says why not."""
    by_function, by_pool = pool_lifespan(make("made")), pool_lifespan(make("orders")())
    for _ in range(2):
        async with by_function(None) as state:
            assert await state["worker_pools"]["made"].run(abs, -5) == 5
    async with by_pool(None):
        pass
    with pytest.raises(RuntimeError, match="'orders' was stopped before this start"):
        await by_pool(None).__aenter__()


async def test_failed_start(make: Make) -> None:
    """The pools that were opened before the error are stopped."""
    first = make("first")()

    def fails() -> InstrumentedPool:
        raise TaskError

    with pytest.raises(TaskError):
        await pool_lifespan(first, fails)(None).__aenter__()
    assert first.stats().state == "stopped"
    with pytest.raises(ValueError, match="two pools are named 'first'"):
        await pool_lifespan(make("first"), make("first"))(None).__aenter__()


async def test_dependency(make: Make) -> None:
    """It gives the pool of that name, or says which ones there are."""
    async with pool_lifespan(make("orders"))(None) as state:
        connection = HTTPConnection({"type": "http", "state": state})
        assert await pool_named("orders")(connection) is state["worker_pools"]["orders"]
        with pytest.raises(LookupError, match=r"no pool 'images' .* but \['orders'\]"):
            await pool_named("images")(connection)
    with pytest.raises(LookupError, match=r"but \[\]"):
        await pool_named("images")(HTTPConnection({"type": "http"}))


def requested(*messages: Message) -> Request:
    """Return a request whose client sends these and then nothing."""
    left = list(messages)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    return Request({"type": "http", "method": "GET"}, receive)


async def raises(error: Exception) -> None:
    raise error


async def test_client_that_stays() -> None:
    """The outcome is that of the work, and a cancellation that of the endpoint."""
    body: Message = {"type": "http.request", "body": b"some", "more_body": False}
    assert await cancel_on_disconnect(requested(body), asyncio.sleep(0.01, result=5)) == 5
    with pytest.raises(PoolFullError):
        await cancel_on_disconnect(requested(), raises(FULL))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancel_on_disconnect(requested(), asyncio.sleep(PATIENCE))
    with pytest.raises(asyncio.CancelledError):
        await cancel_on_disconnect(requested(), raises(asyncio.CancelledError()))  # type: ignore[arg-type]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_client_that_leaves(make: Make) -> None:
    """A queued task is dropped, one that runs is told, and the endpoint ends with an answer for nobody."""
    pool, task = make("orders")(), BlockingTask()
    pool.submit(task)
    task.wait_started()
    with pytest.raises(HTTPException) as raised:
        await cancel_on_disconnect(requested({"type": "http.disconnect"}), pool.run(int))
    assert raised.value.status_code == 499
    assert pool.stats().queued == 0
    task.release()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_client_that_leaves_an_endpoint_that_is_cancelled() -> None:
    """The server's cancellation goes on."""
    told = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            told.set()
            await asyncio.sleep(PATIENCE)

    gone: Message = {"type": "http.disconnect"}
    endpoint = asyncio.create_task(cancel_on_disconnect(requested(gone), work()))
    await told.wait()
    endpoint.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endpoint


class Seen:
    """A middleware of the application, which notes the statuses of its answers."""

    def __init__(self, app: ASGIApp, statuses: list[int]) -> None:
        self._app = app
        self._statuses = statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._statuses.append(message["status"])
            await send(message)

        await self._app(scope, receive, note)


async def ask(app: Starlette) -> int:
    """Return the status of an answer."""
    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await app(scope, requested().receive, send)
    return int(sent[0]["status"])


def application(error: Exception, statuses: list[int], handler: Any = None) -> Starlette:
    """Return an application whose endpoint raises an error, and whose middleware notes its answers."""

    async def endpoint(request: Request) -> Response:
        raise error

    app = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Seen, statuses)])
    if handler is not None:
        app.add_exception_handler(type(error), handler)
    add_refusal_handlers(app)
    return app


async def test_handlers() -> None:
    """Refusals are answered, seen by the application's middleware; a handler of its own stays.

    Groups with other errors are raised on.
    """

    async def own(request: Request, error: Exception) -> Response:
        return PlainTextResponse("later", 418)

    seen: list[int] = []
    group = ExceptionGroup("one is a bug", [FULL, ValueError("a bug")])
    assert await ask(application(FULL, seen)) == 429
    assert await ask(application(ExceptionGroup("two tasks", [FULL, FULL]), seen)) == 429
    assert await ask(application(group, seen, own)) == 418
    assert seen == [429, 429, 418]
    with pytest.raises(ExceptionGroup):
        await ask(application(group, seen))
