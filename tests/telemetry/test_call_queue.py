"""The thread that makes the calls to one sink: order, bound, failures, its start and its end."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import pytest

from prodpool.concurrency.call_queue import CallQueue
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until, until_collected

held: ContextVar[str | None] = ContextVar("held", default=None)


class Sink:
    """What a sink thread tells of itself."""

    def __init__(self, capacity: int = 1000) -> None:
        self.made: list[object] = []
        self.errors: list[BaseException] = []
        self.lost = 0
        self.thread = CallQueue("sink", capacity=capacity, failed=self.errors.append, lost=self._lose)

    def _lose(self) -> None:
        self.lost += 1


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sink"]


@pytest.fixture
def gate() -> Iterator[BlockingTask]:
    """Return a gate that opens at the end of the test at the latest."""
    gate = BlockingTask()
    yield gate
    gate.release()


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_order() -> None:
    """Calls are made in the order in which they were posted, by one daemon thread."""
    sink = Sink()
    sink.thread.open()
    for number in range(500):
        sink.thread.post(sink.made.append, number)
    assert [thread.daemon for thread in threads()] == [True]
    assert sink.thread.close(PATIENCE)
    assert sink.made == list(range(500))
    until(lambda: not threads())


def test_a_call_that_hangs(gate: BlockingTask) -> None:
    """Nobody waits for a call that hangs: posting goes on, a flush says that it was in vain."""
    sink = Sink()
    sink.thread.post(gate)
    gate.wait_started()
    sink.thread.post(sink.made.append, "late")
    assert not sink.thread.flush(0.01)
    assert not sink.thread.close(0.01)
    assert sink.made == []
    gate.release()
    assert sink.thread.flush(PATIENCE)
    assert sink.made == ["late"]


def test_overflow(gate: BlockingTask) -> None:
    """What comes when too many wait is thrown away and told, and what waits is made all the same."""
    sink = Sink(capacity=3)
    sink.thread.post(gate)
    gate.wait_started()
    for number in range(10):
        sink.thread.post(sink.made.append, number)
    assert sink.lost == 7
    gate.release()
    assert sink.thread.close(PATIENCE)
    assert sink.made == [0, 1, 2]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt], ids=lambda kind: kind.__name__)
def test_a_call_that_raises(kind: type[BaseException]) -> None:
    """Whatever a call raises is told, and the thread goes on with the next one."""
    sink = Sink()

    def bad() -> None:
        raise kind("bad")

    sink.thread.post(bad)
    sink.thread.post(sink.made.append, "next")
    assert sink.thread.close(PATIENCE)
    assert ([type(error) for error in sink.errors], sink.made) == ([kind], ["next"])


def test_it_keeps_nothing() -> None:
    """A thread that waits for the next call keeps nothing of the last one, nor the context of its start."""
    sink, seen = Sink(), list[object]()

    class Noted:
        def note(self) -> None:
            seen.append(held.get())

    noted = Noted()
    left = weakref.ref(noted)
    token = held.set("a span")
    sink.thread.open()
    held.reset(token)
    sink.thread.post(noted.note)
    del noted
    assert sink.thread.flush(PATIENCE)
    until_collected(lambda: left() is None)
    assert seen == [None]
    sink.thread.close(PATIENCE)


def test_a_thread_that_was_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread to give nothing raises, and the calls are made once it has."""
    sink = Sink()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        sink.thread.open()
        sink.thread.post(sink.made.append, "kept")
        assert not sink.thread.flush(0.01)
    sink.thread.ensure_thread()
    assert sink.thread.close(PATIENCE)
    assert sink.made == ["kept"]


def test_a_post_after_the_end() -> None:
    """What is posted after `finish` is made as well, by a thread that ends right after it."""
    sink = Sink()
    sink.thread.open()
    sink.thread.close(PATIENCE)
    until(lambda: not threads())
    sink.thread.keep_thread()
    sink.thread.post(sink.made.append, "late")
    assert sink.thread.flush(PATIENCE)
    assert sink.made == ["late"]
    until(lambda: not threads())


def test_posts_from_finalizers_and_many_threads() -> None:
    """Nothing is lost or made twice, whoever posts and whatever is under way meanwhile."""
    sink = Sink(capacity=100_000)

    class Posting:
        def __del__(self) -> None:
            sink.thread.post(sink.made.append, "finalizer")

    def hammer(times: int) -> None:
        for number in range(times):
            cycle: list[object] = [Posting()]
            cycle.append(cycle)
            sink.thread.post(sink.made.append, number)

    crew = [threading.Thread(target=hammer, args=(500,)) for _ in range(4)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(PATIENCE)
    assert sink.thread.close(PATIENCE)
    until_collected(lambda: len(sink.made) == 4000)
    assert sink.made.count("finalizer") == 2000


class Sleeps:
    """Stands in for ``time.sleep``: notes how long a worker gives way, while the thread gets on."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self.seconds: list[float] = []
        self._meanwhile = meanwhile

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._meanwhile()


def test_giving_way(gate: BlockingTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker gives way to a sink that is behind, for a moment, and not to one that hangs."""
    sink = Sink(capacity=10)
    sleeps = Sleeps(lambda: None)
    sink.thread.post(gate)
    gate.wait_started()
    with monkeypatch.context() as patch:
        patch.setattr("prodpool.concurrency.call_queue.time.sleep", sleeps)
        patch.setattr("prodpool.concurrency.call_queue._HANGS_AFTER", PATIENCE)
        for _ in range(5):
            sink.thread.post(sink.made.append, "waits")
            sink.thread.apply_backpressure()
        assert sleeps.seconds == []
        sink.thread.post(sink.made.append, "waits")
        sink.thread.apply_backpressure()
        assert sleeps.seconds == [0.001]  # and not again: the call that is being made takes its time
        patch.setattr("prodpool.concurrency.call_queue._HANGS_AFTER", 0.0)
        sink.thread.apply_backpressure()
        assert sleeps.seconds == [0.001]
    gate.release()
    sink.thread.close(PATIENCE)


@pytest.mark.parametrize(
    ("calls_made", "seconds"),
    [(2, [0.001, 0.002]), (9, [0.001]), (0, [0.001]), (100, [0.001, 0.002, 0.004, 0.008, 0.016, 0.032])],
)
def test_giving_way_for_longer(
    calls_made: int, seconds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker gives way for as long as the thread gets on and is behind, twice as long each time."""
    sink = Sink(capacity=10)

    def get_on() -> None:
        """Make calls as the thread would; a hundred stand for one that other workers keep behind."""
        for _ in range(calls_made):
            sink.thread._make(block=False)
            if calls_made == 100:
                sink.thread._calls.put((sink.made.append, ("posted by others",)))

    sleeps = Sleeps(get_on)
    with monkeypatch.context() as patch:
        patch.setattr(sink.thread, "_start", lambda: None)
        patch.setattr("prodpool.concurrency.call_queue.time.sleep", sleeps)
        for number in range(9):
            sink.thread.post(sink.made.append, number)
        sink.thread.apply_backpressure()
    assert sleeps.seconds == seconds
    assert sink.thread.close(PATIENCE)
    assert len([made for made in sink.made if made != "posted by others"]) == 9


def test_how_long_it_hangs(gate: BlockingTask) -> None:
    """It can be seen for how long a call has lasted, and that none is being made."""
    sink = Sink()
    assert sink.thread.busy_for() == 0.0
    sink.thread.post(gate)
    gate.wait_started()
    until(lambda: sink.thread.busy_for() > 0.01)
    gate.release()
    until(lambda: sink.thread.busy_for() == 0.0)


@pytest.mark.parametrize("end", ["flush", "close"])
def test_nothing_was_posted(end: str) -> None:
    """Without a call there is nothing to wait for, and no thread."""
    sink = Sink()
    wait: Callable[[], bool] = partial(getattr(sink.thread, end), PATIENCE)
    assert wait()
    assert threads() == []
