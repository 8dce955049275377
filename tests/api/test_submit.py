"""What happens between `submit` and the call: arguments, names, contextvars, what a task may ask."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from prodpool import CurrentTask, InstrumentedPool, TaskExpiredError, current_task
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool

# Names that a careless signature would take for its own.
NAMES = [
    "self", "fn", "args", "kwargs", "task", "deadline", "wait", "timeout", "options", "pool", "name",
    "priority", "tenant", "retry", "key", "context", "loop", "executor", "event", "pure", "workers",
]  # fmt: skip


def echo(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
    return args, kwargs


@pytest.mark.parametrize("name", NAMES)
def test_keyword_arguments_never_collide(make_pool: MakePool, name: str) -> None:
    """A task's keyword arguments reach it whatever they are called, from a pool and from a view."""
    pool = make_pool(1)
    view = pool.options(task="echo", deadline=PATIENCE, wait=PATIENCE)
    submits: list[Callable[..., Any]] = [pool.submit, pool.submit_wait, view.submit, view.submit_wait]
    for submit in submits:
        assert submit(echo, 1, **{name: 2}).result(PATIENCE) == ((1,), {name: 2})


@pytest.mark.parametrize("name", NAMES)
async def test_keyword_arguments_never_collide_in_coroutines(make_pool: MakePool, name: str) -> None:
    """The same holds for submit_async."""
    pool = make_pool(1)
    for executor in (pool, pool.options(task="echo")):
        assert await (await executor.submit_async(echo, 1, **{name: 2})) == ((1,), {name: 2})


def test_the_function_is_positional(make_pool: MakePool) -> None:
    """submit() without a function is a TypeError, also when one is passed as fn=."""
    pool = make_pool(1)
    with pytest.raises(TypeError, match="fn"):
        pool.submit()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="fn"):
        pool.submit(fn=len)  # type: ignore[call-arg]
    assert pool.stats().offered == 0


# Names


class Holder:
    def method(self) -> None:
        raise ValueError

    @classmethod
    def of_class(cls) -> None:
        raise ValueError

    def __call__(self) -> None:
        raise ValueError


class Builder:
    def __init__(self) -> None:
        raise ValueError


def plain() -> None:
    raise ValueError


@functools.wraps(plain)
def wrapper() -> None:
    plain()


def with_arguments(*_: object) -> None:
    raise ValueError


nameless = functools.partial(plain)
lambda_ = lambda: plain()  # noqa: E731, PLW0108  # a lambda is what this is about


@pytest.mark.parametrize(
    ("fn", "args", "name"),
    [
        (plain, (), "plain"),
        (lambda_, (), "<lambda>"),
        (wrapper, (), "plain"),
        (Holder().method, (), "Holder.method"),
        (Holder.of_class, (), "Holder.of_class"),
        (Holder(), (), "Holder"),
        (Builder, (), "Builder"),
        (int, ("no number",), "int"),
        (divmod, (1, 0), "divmod"),
        ("text".index, ("no such",), "str.index"),
        (nameless, (), "plain"),
        (functools.partial(functools.partial(with_arguments, 1), 2), (3,), "with_arguments"),
        (functools.partial(Holder()), (), "Holder"),
    ],
    ids=[
        "function", "lambda", "wrapped function", "method", "class method", "callable object", "class",
        "built-in class", "built-in function", "built-in method", "partial", "partial of partial",
        "partial of callable object",
    ],
)  # fmt: skip
def test_every_callable_has_a_name(
    make_pool: MakePool, logs: Logs, fn: Callable[..., Any], args: tuple[Any, ...], name: str
) -> None:
    """Logs name a task after its function, whatever kind of callable that is, and never by its repr."""
    pool = make_pool(1)
    pool.submit(fn, *args)
    assert logs.wait_for("task.error")["task"] == name


def test_a_given_name_wins(make_pool: MakePool, logs: Logs) -> None:
    """options(task=...) names the task in logs."""
    make_pool(1).options(task="100 % mine").submit(plain)
    assert logs.wait_for("task.error")["task"] == "100 % mine"


# Contextvars

word: ContextVar[str] = ContextVar("word", default="unset")


def test_context_is_that_of_the_submit(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task sees the contextvars as they were when it was submitted, not as they are when it runs."""
    pool = make_pool(1)
    pool.submit(gate)

    def submit_both() -> list[Any]:
        word.set("first")
        first = pool.submit(word.get)
        word.set("second")
        return [first, pool.submit(word.get)]

    futures = copy_context().run(submit_both)
    gate.release()
    assert [future.result(PATIENCE) for future in futures] == ["first", "second"]


def change() -> str:
    before = word.get()
    word.set("changed")
    return before


def test_changes_stay_in_the_task(make_pool: MakePool) -> None:
    """What a task sets is seen neither by the next task of that worker nor by the submitter."""
    pool = make_pool(1)
    assert [pool.submit(change).result(PATIENCE) for _ in range(2)] == ["unset", "unset"]
    assert list(pool.map(lambda _: change(), range(3))) == ["unset"] * 3
    assert word.get() == "unset"


def test_a_task_run_by_its_caller_has_a_context_of_its_own(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that the submitter runs itself does not change the submitter's contextvars."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    pool.submit(gate)
    gate.wait_started()
    assert pool.submit(change).result(0) == "unset"
    assert word.get() == "unset"


async def test_context_of_a_coroutine(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that a coroutine had to wait for a slot for sees that coroutine's contextvars."""
    pool = make_pool(1, queue_capacity=0)
    pool.submit(gate)
    gate.wait_started()
    word.set("of the coroutine")
    waiting = asyncio.ensure_future(pool.submit_async(word.get))
    while not pool._engine.dispatcher.waiters.length:  # noqa: ASYNC110  # nothing announces it
        await asyncio.sleep(0)
    gate.release()
    assert await (await waiting) == "of the coroutine"


# What a task may ask: current_task


def ask() -> CurrentTask:
    task = current_task()
    assert task is not None
    return task


def test_outside_of_a_pool_there_is_no_task(make_pool: MakePool, gate: BlockingTask) -> None:
    """current_task() is None in any thread that runs no task, also right after one that it ran itself."""
    assert current_task() is None
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    pool.submit(gate)
    gate.wait_started()
    assert pool.submit(lambda: ask().name).result(0).endswith("<lambda>")
    assert current_task() is None


def test_what_a_task_may_know(make_pool: MakePool) -> None:
    """A task knows its name, its pool, its attempt, the rest of its deadline and that nobody cancels it."""
    clock = ManualClock(100.0)
    pool = make_pool(1, name="mail", clock=clock)

    def know() -> tuple[object, ...]:
        task = ask()
        remaining = [task.remaining]
        for seconds in (3.0, 10.0):
            clock.advance(seconds)
            remaining.append(task.remaining)
        return task.name, task.pool, task.attempt, remaining, task.cancelled.is_set()

    known = pool.options(task="deliver", deadline=5.0).submit(know).result(PATIENCE)
    assert known == ("deliver", "mail", 1, [5.0, 2.0, 0.0], False)
    assert pool.submit(lambda: ask().remaining).result(PATIENCE) is None


def test_a_queued_task_uses_its_deadline_up(make_pool: MakePool, gate: BlockingTask) -> None:
    """The deadline counts from submit: what is left is less by the dwell; when none is, it never runs."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    pool.submit(gate)
    gate.wait_started()
    in_time = pool.options(deadline=5.0).submit(lambda: ask().remaining)
    too_late = pool.options(deadline=4.0).submit(len, "never")
    clock.advance(4.0)
    gate.release()
    assert in_time.result(PATIENCE) == 1.0
    with pytest.raises(TaskExpiredError):
        too_late.result(PATIENCE)


def test_a_task_hears_that_it_is_cancelled(make_pool: MakePool) -> None:
    """At the stop deadline the event of a running task is set, also if the task asks for it only then."""
    pool = make_pool(2)
    began, asks_late = threading.Barrier(3), threading.Event()

    def early() -> bool:
        cancelled = ask().cancelled
        began.wait(PATIENCE)
        return cancelled.wait(PATIENCE)

    def late() -> bool:
        began.wait(PATIENCE)
        assert asks_late.wait(PATIENCE)
        return ask().cancelled.is_set()

    futures = pool.submit(early), pool.submit(late)
    began.wait(PATIENCE)
    futures[0].add_done_callback(lambda _: asks_late.set())
    pool.stop(deadline=0)
    asks_late.set()
    # One may have been given up before it could answer; who answered has heard of it.
    answers = [future.result() for future in futures if future.exception(PATIENCE) is None]
    assert answers in ([True], [True, True])


def test_a_task_that_another_waits_for(make_pool: MakePool) -> None:
    """A task run inside another that waits for it is the current one until it ends; then the other is."""
    pool = make_pool(1)

    def outer() -> list[str]:
        names = [ask().name]
        inner = pool.options(task="inner").submit(lambda: ask().name)
        return [*names, inner.result(PATIENCE), ask().name]

    names = pool.options(task="outer").submit(outer).result(PATIENCE)
    assert names == ["outer", "inner", "outer"]


def test_a_task_run_by_its_caller_can_wait_for_its_own_pool(make_pool: MakePool) -> None:
    """A task that a worker runs as a caller may wait for a queued task; it is run right there."""
    pool = make_pool(1, queue_capacity=1, overload="caller_runs")

    def outer() -> list[str]:
        queued = pool.options(task="queued").submit(lambda: ask().name)
        run_here = pool.options(task="run here").submit(lambda: [queued.result(PATIENCE), ask().name])
        return [*run_here.result(PATIENCE), ask().name]

    names = pool.options(task="outer").submit(outer).result(PATIENCE)
    assert names == ["queued", "run here", "outer"]


def submit(pool: InstrumentedPool, fn: Any) -> object:
    return pool.submit(fn)


def submit_wait(pool: InstrumentedPool, fn: Any) -> object:
    return pool.submit_wait(fn)


def map_over_one(pool: InstrumentedPool, fn: Any) -> object:
    return pool.map(fn, [1])


@pytest.mark.parametrize("how", [submit, submit_wait, map_over_one])
@pytest.mark.parametrize("fn", [None, 3, "len"], ids=repr)
def test_what_cannot_be_called_is_refused(
    make_pool: MakePool, how: Callable[[InstrumentedPool, Any], object], fn: object
) -> None:
    """Submitting something that cannot be called is a TypeError at once, and leaves no trace."""
    pool = make_pool(1)
    with pytest.raises(TypeError, match=f"fn={fn!r}.*pass the function"):
        how(pool, fn)
    assert pool.stats().offered == 0
