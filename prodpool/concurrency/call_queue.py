"""Calls to observers (log sinks, span processors), made by daemon threads that no task waits for.

A log handler or a span exporter belongs to the application and may hang: a full pipe, a network that does
not answer. A worker, a submitter, the watchdog and a stop therefore only post a call here. Each sink of
each pool has a thread of its own, so that one that hangs delays no other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.interrupts import start_thread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent

Call = Callable[..., object]
QueuedCalls: TypeAlias = "queue.SimpleQueue[tuple[Call, tuple[Any, ...]]]"
# Seconds after which a call is taken to hang.
_HANGS_AFTER = 1.0
# Seconds for which a worker pauses first and at most at a time: each time twice as long as before.
_SHORTEST_PAUSE = 0.001
_LONGEST_PAUSE = 0.032
# Calls per second that a thread must make for a worker to pause again: a slower one waits for its sink.
_KEEPS_UP = 1000
# Those that are making a call. Plain set operations only, each of them atomic.
_at_work: set[CallQueue] = set()


class CallQueue:
    """Makes calls in the order in which they were posted, in one daemon thread.

    Between `open` and `finish` the thread stays while it has nothing to do: once the interpreter exits, no
    thread can be started any more (3.12 on). Otherwise it is started when there is something to do.

    Args:
        name: The name of the thread.
        capacity: How many calls may wait. Several threads that post at once may exceed it by one each.
        failed: Called with what a call raised.
        lost: Called when a call is thrown away because too many wait; must not block.
        calls: What waits, where several threads share it; None for a queue of its own.
        rest: Seconds that the thread sleeps after a call, so that calls which come in numbers do not wake it
            each: a thread that is woken takes the interpreter away from the one that posts.

    Threads: `post` may be called anywhere, also in a finalizer or a signal handler.
    """

    def __init__(
        self,
        name: str,
        *,
        capacity: int,
        failed: Callable[[BaseException], None],
        lost: Callable[[], None],
        calls: QueuedCalls | None = None,
        rest: float = 0.0,
    ) -> None:
        self._name = name
        self._capacity = capacity
        self._failed = failed
        self._rest = rest
        self._lost = lost
        # SimpleQueue is reentrant: every use of it is one atomic step.
        self._calls: QueuedCalls = queue.SimpleQueue() if calls is None else calls
        self._stays = self._finished = False
        # When the call began that is being made now, in seconds of time.monotonic.
        self._since: float | None = None
        self._made = 0  # how many calls were made; a rough measure, which takes no lock
        # Guards starting the thread. Reentrant, because a finalizer may post in the middle of a start.
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Start the thread and have it stay until `finish`."""
        self.keep_thread()
        self._start()

    def keep_thread(self) -> None:
        """Have the thread stay until `finish` once it is started; as safe as `post`."""
        self._stays = not self._finished

    def post(self, call: Call, *args: Any) -> None:
        """Have ``call(*args)`` made soon. Never blocks and never raises."""
        try:
            if self._calls.qsize() >= self._capacity:
                self._lost()
                return
            self._calls.put((call, args))
            # A thread is started by the watchdog's: ``Thread.start`` takes a lock of the threading module,
            # which the frame that a finalizer or a signal handler has interrupted may hold.
            if self._thread is None and not background_thread().call_soon(self._start):
                self._start()
        except MemoryError:
            self._lost()

    def apply_backpressure(self) -> None:
        """Sleep for a millisecond if more than half of what may wait does; longer while that helps.

        For workers that post: busy ones leave this thread too little of the interpreter to keep up with them,
        the more so the more there are. A worker sleeps for 63 ms at most, and not again where the sink itself
        is slow, nor at all where it hangs.
        """
        pause = _SHORTEST_PAUSE
        while pause <= _LONGEST_PAUSE and self._calls.qsize() > self._capacity // 2:
            if self.busy_for() >= _HANGS_AFTER:
                return
            made = self._made
            time.sleep(pause)
            if self._made - made < pause * _KEEPS_UP:
                return
            pause *= 2

    def flush(self, timeout: float) -> bool:
        """Wait until all that was posted so far is done; False after ``timeout`` seconds."""
        done = self._mark()
        return done is None or done.wait(timeout)

    def close(self, patience: float, longest: float = 0.0) -> bool:
        """Let the thread end as soon as nothing is left to do, and wait for that.

        Args:
            patience: Seconds for which one call may last; False after that.
            longest: Seconds to wait at most while the calls get on; ``patience`` if that is more.
        """
        self._stays, self._finished = False, True
        done, ends = self._mark(), time.monotonic() + longest
        while not (done is None or done.wait(patience)):
            if self._thread is None or self.busy_for() >= patience or time.monotonic() >= ends:
                return False
        return True

    def _mark(self) -> SignalSafeEvent | None:
        """Return what opens when all that was posted so far is done; None if nothing is left to do."""
        if self._thread is None and self._calls.empty():
            return None
        done = SignalSafeEvent()
        # Past the bound, or the question itself would be thrown away where a sink hangs.
        self._calls.put((done.set, ()))
        self._start()
        return done

    def ensure_thread(self) -> None:
        """Start the thread if calls wait without one, because a start has failed. For the watchdog."""
        if self._thread is None:
            self._start()

    def busy_for(self) -> float:
        """Return the seconds for which the present call has lasted; 0 while none is being made."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def _start(self) -> None:
        with self._starting:
            if self._thread is not None or not (self._stays or not self._calls.empty()):
                return
            thread = self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                start_thread(thread)
            except Exception:  # noqa: BLE001  # no thread, or no memory for one; see `ensure_thread`
                self._thread = None
                if _Exit.has_begun:
                    background_thread().call_soon(self._make_waiting)
            except BaseException:
                # Ctrl-C in the middle of it. A thread that comes up later says so itself, see `_run`.
                if not thread.is_alive():
                    self._thread = None
                raise

    def _run(self) -> None:
        self._thread = threading.current_thread()
        while self._stays:
            self._make(block=True)
            if self._rest:
                time.sleep(self._rest)
            self._make_waiting()
        self._make_waiting()
        self._thread = None
        if not self._calls.empty():
            # Posted just now, when there still was a thread to be seen.
            self._start()

    def _make_waiting(self) -> None:
        while self._make(block=False):
            pass

    def _make(self, *, block: bool) -> bool:
        """Make the next call; False if there is none."""
        try:
            call, args = self._calls.get(block)
        except queue.Empty:
            return False
        self._since = time.monotonic()
        _at_work.add(self)
        try:
            call(*args)
        except BaseException as error:  # noqa: BLE001  # observers raise SystemExit and worse
            self._failed(error)
        finally:
            # Not kept while the thread waits for the next one: it may hold a span, or a pool.
            del call, args
            _at_work.discard(self)
            self._since = None
            self._made += 1
        return True


class _Exit:
    """Whether the interpreter is exiting."""

    has_begun = False


def exit_begins() -> None:
    """Have the watchdog's thread make the calls for which no thread can be started from now on."""
    _Exit.has_begun = True


def has_exit_begun() -> bool:
    """Tell whether the process is ending."""
    return _Exit.has_begun


def any_busy() -> bool:
    """Tell whether a call is being made; asked at exit, after all were given their time."""
    return bool(_at_work)


def any_hangs(patience: float) -> bool:
    """Tell whether a call seems to hang: one has lasted for half of ``patience`` seconds after these.

    Returns False as soon as none is being made. A thread that is behind is always making a call, but each of
    them ends.
    """
    ends = time.monotonic() + patience
    while _at_work and time.monotonic() < ends:
        time.sleep(_SHORTEST_PAUSE)
    return any(queue.busy_for() >= patience / 2 for queue in list(_at_work))


def forget_after_fork() -> None:
    """Forget the threads, which stayed in the parent."""
    _at_work.clear()
