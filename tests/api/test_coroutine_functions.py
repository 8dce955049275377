"""An `async def` function is refused, however it is handed in: a worker would only make its coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial, wraps
from types import MethodType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from prodpool import InstrumentedPool, Result
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


async def fetch(number: int = 7) -> int:
    return number


async def stream() -> AsyncIterator[int]:
    yield 7


def make_fetch(number: int = 7) -> Coroutine[Any, Any, int]:
    return fetch(number)


def run_fetch(number: int = 7) -> int:
    return asyncio.run(fetch(number))


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(fn)
    def call(*args: Any) -> Any:
        return fn(*args)

    return call


class Client:
    async def fetch(self) -> int:
        return 7

    @classmethod
    async def of_the_class(cls) -> int:
        return 7

    async def __call__(self) -> int:
        return 7


SEEN_AT_SUBMIT = [
    pytest.param(fetch, "fetch", id="function"),
    pytest.param(stream, "stream", id="generator"),
    pytest.param(Client().fetch, r"Client\.fetch", id="method"),
    pytest.param(Client.of_the_class, r"Client\.of_the_class", id="class-method"),
    pytest.param(partial(fetch, 3), "fetch", id="partial"),
    pytest.param(partial(partial(Client().fetch)), r"Client\.fetch", id="partial-of-partial-of-method"),
    pytest.param(lambda: fetch(3), None, id="lambda"),
    pytest.param(make_fetch, "make_fetch", id="maker"),
    pytest.param(decorated(fetch), "fetch", id="decorated"),
    pytest.param(Client(), "Client", id="object"),
]


def outcome(pool: InstrumentedPool, fn: Callable[..., Any]) -> BaseException | None:
    """Return what submit raised, or what the future did."""
    try:
        return pool.submit(fn).exception(PATIENCE)
    except TypeError as error:
        return error


@pytest.mark.parametrize(("fn", "name"), SEEN_AT_SUBMIT[:6])
def test_refused_by_submit(make_pool: MakePool, fn: Callable[..., Any], name: str) -> None:
    """A TypeError of submit names the function and says what to do; nothing is counted."""
    pool = make_pool(1)
    said = rf"{name} is an async def function.*await it on the event loop.*asyncio\.run"
    for submit in (pool.submit, pool.submit_wait, pool.options(task="named").submit):
        with pytest.raises(TypeError, match=said):
            submit(fn)
    with pytest.raises(TypeError, match=said):
        pool.map(fn, [1])
    assert (pool.stats().submitted, pool.stats().offered) == (0, 0)


@pytest.mark.parametrize(("fn", "name"), SEEN_AT_SUBMIT[6:])
@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
def test_a_coroutine_is_no_result(
    make_pool: MakePool, fn: Callable[..., Any], name: str | None, traced: bool
) -> None:
    """Where only the result tells, the task fails with that error, and is counted as failed.

    That the coroutine is closed shows in that no warning says it was never awaited.
    """
    pool = make_pool(1, tracer_provider=TracerProvider(shutdown_on_exit=False) if traced else None)
    error = pool.submit(fn).exception(PATIENCE)
    assert isinstance(error, TypeError)
    assert "returned a coroutine" in str(error)
    assert (name or "lambda") in str(error)
    assert check(pool.stats()).completed == {**dict.fromkeys(Result, 0), Result.ERROR: 1}


async def test_refused_in_coroutines(make_pool: MakePool) -> None:
    """It is raised where run and submit_async are awaited, and by run_in_executor at once."""
    pool = make_pool(1)
    with pytest.raises(TypeError, match="fetch is an async def function"):
        await pool.run(fetch)  # type: ignore[unused-coroutine]  # so mypy says it, too
    with pytest.raises(TypeError, match="fetch is an async def function"):
        await pool.submit_async(fetch)
    with pytest.raises(TypeError, match="fetch is an async def function"):
        await asyncio.get_running_loop().run_in_executor(pool, fetch)  # type: ignore[unused-coroutine]
    with pytest.raises(TypeError, match="make_fetch returned a coroutine"):
        await pool.run(make_fetch)  # type: ignore[unused-coroutine]


def test_a_coroutine_of_a_task_run_elsewhere(make_pool: MakePool) -> None:
    """A task run by its submitter, or by the task that waits for it, fails with that error as well."""
    hold = BlockingTask()
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    pool.submit(hold)
    hold.wait_started()
    assert "returned a coroutine" in str(pool.submit(make_fetch).exception(PATIENCE))
    hold.release()
    nested = make_pool(1)
    error = nested.submit(lambda: nested.submit(make_fetch).exception(PATIENCE)).result(PATIENCE)
    assert "returned a coroutine" in str(error)


def test_a_begun_coroutine_is_left_alone(make_pool: MakePool) -> None:
    """Only a coroutine that has not begun is closed: another may be in the midst of something."""
    loop = asyncio.new_event_loop()
    waiting = asyncio.Event()
    ended: list[str] = []

    async def wait() -> None:
        await waiting.wait()
        ended.append("by itself")

    coroutine = wait()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    assert "returned a coroutine" in str(make_pool(1).submit(lambda: coroutine).exception(PATIENCE))
    waiting.set()
    loop.run_until_complete(task)
    loop.close()
    assert ended == ["by itself"]


@pytest.mark.parametrize(
    "fn",
    [run_fetch, partial(run_fetch), MethodType(partial(run_fetch), 7), MethodType(int, "7"), lambda: 7],
    ids=["function", "partial", "method-of-a-partial", "method-of-a-class", "lambda"],
)
def test_plain_functions_are_not_refused(make_pool: MakePool, fn: Callable[..., Any]) -> None:
    """What runs a coroutine by itself is a function like any other."""
    assert make_pool(1).submit(fn).result(PATIENCE) == 7
