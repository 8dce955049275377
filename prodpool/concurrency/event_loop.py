"""Waiting on an event loop for a call that takes its time."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from prodpool.concurrency.interrupts import start_thread

T = TypeVar("T")


def on_event_loop() -> bool:
    """Tell whether the calling thread runs an event loop that a call must not block.

    A Jupyter kernel runs its cells on a running loop, but a cell may block: the user waits for it. So may a
    coroutine that a cell awaits: it runs on the same loop, and blocks what a plain cell blocks.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return not _runs_cells(loop)


def _runs_cells(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether ``loop`` is one on which the Jupyter kernel of this process runs cells, if it has one."""
    ipython: Any = sys.modules.get("IPython")
    get_ipython = getattr(ipython, "get_ipython", None)
    kernel = None if get_ipython is None else getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    # The kernel's own, or that of a subshell, which has a thread of its own.
    return any(
        getattr(getattr(holder, "io_loop", None), "asyncio_loop", None) is loop
        for holder in (kernel, threading.current_thread())
    )


def blocks_loop(pool: str) -> str:
    """Return the error message for a submit that would block a running event loop."""
    return (
        f"pool {pool!r} would block the event loop of this thread until there is a slot: "
        "use 'await pool.run(fn, ...)' or 'await pool.submit_async(fn, ...)' there"
    )


def running_loop(what: str, instead: str) -> asyncio.AbstractEventLoop:
    """Return the event loop of the calling thread.

    Raises:
        RuntimeError: It runs none; the message says that ``what`` needs one, and to use ``instead``.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(f"{what} needs a running asyncio event loop: {instead}") from None


async def call_in_own_thread(loop: asyncio.AbstractEventLoop, name: str, call: Callable[[], T]) -> T:
    """Make ``call`` in a thread of that name, which no other call has to wait for, and return its result.

    A caller that is cancelled meanwhile leaves the call going on. Where the system has no thread to give, the
    call is made here, and the loop waits for it.
    """
    outcome: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: Callable[[], None]
        try:
            settle = partial(outcome.set_result, call())
        except BaseException as error:  # noqa: BLE001  # it is the caller's, whatever it is
            settle = partial(outcome.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_unless_cancelled, outcome, settle)

    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        start_thread(thread)
    except RuntimeError:
        return call()
    return await outcome


def _unless_cancelled(outcome: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    if not outcome.done():
        settle()
