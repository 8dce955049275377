"""`InlineExecutor` by itself: an `Executor` that makes each call where it is submitted."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Executor, Future, as_completed, wait
from contextvars import ContextVar

import pytest

from prodpool.testing import InlineExecutor
from tests.helpers.tasks import TaskError

COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")


def test_a_call_is_made_before_submit_returns() -> None:
    """The call is made in the submitting thread, and its future is done, without a thread being started."""
    before = threading.active_count()
    with InlineExecutor() as executor:
        assert isinstance(executor, Executor)
        future = executor.submit(threading.current_thread)
        assert future.done()
        assert future.result(0) is threading.current_thread()
        assert executor.submit(divmod, 7, 2).result(0) == (3, 1)
        assert list(executor.map(str, [1, 2])) == ["1", "2"]
        futures = [executor.submit(int, text) for text in "12"]
        assert {each.result() for each in as_completed(futures)} == {1, 2}
        assert wait(futures).not_done == set()
        assert threading.active_count() == before


def test_an_error_is_in_the_future() -> None:
    """Whatever a call raises is its future's, save Ctrl-C, which is meant for the thread."""

    def fail(error: BaseException) -> None:
        raise error

    executor = InlineExecutor()
    for error in (TaskError("no"), SystemExit(3), StopIteration(), GeneratorExit()):
        assert executor.submit(fail, error).exception(0) is error
    with pytest.raises(KeyboardInterrupt):
        executor.submit(fail, KeyboardInterrupt())


def test_a_call_has_a_copy_of_the_context() -> None:
    """A call sees the context variables of its submitter, and what it sets is gone with it."""

    def paint() -> str:
        before = COLOUR.get()
        COLOUR.set("blue")
        return before

    token = COLOUR.set("red")
    assert InlineExecutor().submit(paint).result() == "red"
    assert COLOUR.get() == "red"
    COLOUR.reset(token)


def test_calls_inside_calls_are_made_at_once() -> None:
    """A call that submits another gets a future that is done; too deep a chain is that call's error."""
    executor = InlineExecutor()

    def nest(depth: int) -> int:
        return 0 if depth == 0 else 1 + executor.submit(nest, depth - 1).result(0)

    assert executor.submit(nest, 20).result(0) == 20
    assert isinstance(executor.submit(nest, 100_000).exception(0), RecursionError)
    assert executor.submit(nest, 20).result(0) == 20


def test_it_is_closed_by_shutdown() -> None:
    """After shutdown, and so after ``with``, nothing is taken; to shut down again does no harm."""
    with InlineExecutor() as executor:
        pass
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)
    with pytest.raises(ValueError, match="max_workers=0 must be 1 or more"):
        InlineExecutor(0)


def test_a_failed_call_leaves_no_cycle() -> None:
    """The future of a failed call, and what it was called with, is freed without the garbage collector."""

    class Argument:
        pass

    def fail(_: Argument) -> None:
        raise TaskError

    gc.disable()
    try:
        argument = Argument()
        gone = weakref.ref(argument)
        future: Future[None] | None = InlineExecutor().submit(fail, argument)
        assert future is not None
        gone_future = weakref.ref(future)
        del argument, future
        assert (gone(), gone_future()) == (None, None)
    finally:
        gc.enable()
