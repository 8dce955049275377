"""Keeping CPython from joining threads that never end. All private names of it are in this file.

At exit ``threading._shutdown`` runs the exit hooks and then joins the non-daemon threads. Hung threads
are taken out of both: out of the table from which concurrent.futures' own hook joins, and out of the
final join. Everybody else's hooks, threads and executors are ended as ever, and so are ``atexit``, the
flushing of streams and the exit status (docs/decisions, D5; guarded by tests/process).
"""

from __future__ import annotations

import concurrent.futures.thread
import threading
from collections.abc import Collection
from typing import Any


def skip_at_exit_join(idents: Collection[int]) -> None:
    """Have the exiting interpreter not wait for the threads of these idents."""
    hung = [thread for thread in threading.enumerate() if thread.ident in idents]
    if not hung:
        return
    queues: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
    for thread in hung:
        queues.pop(thread, None)
    locks: Any = getattr(threading, "_shutdown_locks", None)
    if locks is not None:  # to 3.12: a lock per thread to be joined
        for thread in hung:
            locks.discard(getattr(thread, "_tstate_lock", None))
    else:  # from 3.13 on: the join is one function in C, called by this name
        threading._thread_shutdown = lambda: _join_others(hung)  # type: ignore[attr-defined]  # noqa: SLF001


def _join_others(hung: list[threading.Thread]) -> None:
    while True:
        # One without an ident is only just being started and cannot be joined; who starts it is waited for.
        others = [one for one in threading.enumerate() if not one.daemon and one.ident is not None]
        waited_for = [one for one in others if one not in hung and one is not threading.main_thread()]
        if not waited_for:
            return
        for thread in waited_for:
            thread.join()
