"""`prodpool.threads`: a pool on threads of its own, sized by the environment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool
from tests.helpers.waiting import PATIENCE

Threads = Callable[..., InstrumentedPool]


@pytest.fixture
def threads(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Threads]:
    """Return prodpool.threads with a registry of this test's own; what it made is stopped afterwards."""
    monkeypatch.delenv("WORKER_POOL_SIZE", raising=False)
    pools: list[InstrumentedPool] = []

    def make(**options: Any) -> InstrumentedPool:
        pool = prodpool.threads(**{"name": "ready", "registry": registry, **options})
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.stop(deadline=1.0)


@pytest.mark.parametrize(
    ("text", "size"), [(None, 50), ("1", 1), ("8", 8), ("200", 200), (" 16 ", 16), ("007", 7)], ids=str
)
def test_size_from_the_environment(
    threads: Threads, monkeypatch: pytest.MonkeyPatch, text: str | None, size: int
) -> None:
    """WORKER_POOL_SIZE says how many workers, 50 if it is not set; twice as many tasks may wait."""
    if text is not None:
        monkeypatch.setenv("WORKER_POOL_SIZE", text)
    stats = threads().stats()
    assert (stats.workers, stats.queue_capacity) == (size, 2 * size)


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "-1", "8_0", "\uff11\uff12", "many", "8.0", "1e2", "0x10", "8 workers", "inf", "nan", "∞"],
)
def test_malformed_size(threads: Threads, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A malformed WORKER_POOL_SIZE is an error that names the variable, its value and what would do."""
    monkeypatch.setenv("WORKER_POOL_SIZE", text)
    with pytest.raises(ValueError, match="WORKER_POOL_SIZE") as caught:
        threads()
    assert repr(text) in str(caught.value)
    assert "a whole number of 1 or more" in str(caught.value)


def test_a_given_size_wins(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """max_workers wins over the environment, even over a malformed one."""
    monkeypatch.setenv("WORKER_POOL_SIZE", "many")
    assert threads(max_workers=3).stats().workers == 3


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"], ids=repr)
def test_bad_size(threads: Threads, size: object) -> None:
    """A bad max_workers is an error that names it; nothing is left of the pool that was not made."""
    with pytest.raises((TypeError, ValueError), match=f"max_workers={size!r}"):
        threads(max_workers=size)
    assert threads(max_workers=1).submit(len, "made").result(PATIENCE) == 4


@pytest.mark.parametrize(
    "name",
    ["", "-dash", ".dot", "with space", "ünder", "a=b", '"', "line\nbreak", "x" * 101, 3, None],
    ids=repr,
)
def test_bad_name(threads: Threads, name: object) -> None:
    """A bad name is an error that names it."""
    with pytest.raises((TypeError, ValueError), match="name="):
        threads(name=name)


def test_its_threads(threads: Threads) -> None:
    """The threads are daemons that bear the pool's name; there are no workers before the first task."""
    before = set(threading.enumerate())
    pool = threads(name="mail", max_workers=2)
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert names <= {"prodpool-watchdog", "prodpool-log-mail"}
    thread = pool.submit(threading.current_thread).result(PATIENCE)
    assert thread.daemon
    assert "mail" in thread.name


def test_it_grows(threads: Threads) -> None:
    """A pool on threads of its own can be resized beyond the size it was made with."""
    pool = threads(max_workers=1)
    pool.resize(3)
    barrier = threading.Barrier(3)
    assert sorted(pool.map(lambda _: barrier.wait(PATIENCE), range(3))) == [0, 1, 2]


def test_options_go_through(threads: Threads) -> None:
    """The options are those of InstrumentedPool; an unknown one is a TypeError."""
    assert threads(queue_capacity=7, overload="block").stats().queue_capacity == 7
    with pytest.raises(TypeError, match="no_such_option"):
        threads(name="other", no_such_option=1)
