"""Architecture 5: a bad argument is an error at once, which names it, its value and what would do."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from prodpool.workers.threads.daemon_executor import DaemonThreadExecutor
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


class Overriding(ThreadPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


class Keeping(ThreadPoolExecutor):
    """A subclass that keeps its submit, and so can be leased."""

    @classmethod
    def sized(cls, workers: int) -> Keeping:
        return cls(workers)


NAN, INF, HUGE = math.nan, math.inf, 10**400


def enter_app(app: object) -> nullcontext[object]:
    return nullcontext(app)


def forgot_the_decorator() -> Iterator[None]:
    yield


async def opens_soon() -> None:
    pass


async def opens_later() -> AsyncIterator[None]:
    yield


# (argument, bad value, words of the message besides "argument=value")
Rows = list[tuple[str, Any, list[str]]]
NO_COUNTS: list[Any] = [NAN, INF, 2.0, "3", True, []]
NO_SECONDS: list[Any] = [NAN, -1, -0.001, -INF, "1", True, None, [], HUGE, -HUGE, 1j]
NO_NAMES: list[Any] = [
    "", "_mail", "-mail", "mail out", "mail=out", "mail\n", "mäil", "m" * 101, '"mail"', None, 3, b"mail",
]  # fmt: skip
NO_BUCKETS: list[Any] = [(), (1, 1), (2, 1), (INF,), (INF, INF), 5, True]
COUNTS: Rows = [
    *(("max_workers", value, ["a whole number of 1 or more"]) for value in NO_COUNTS),
    *(("queue_capacity", value, ["a whole number of 0 or more"]) for value in NO_COUNTS),
    *(("max_workers", value, ["must be 1 or more"]) for value in (0, -1)),
    ("queue_capacity", -1, ["must be 0 or more"]),
]
SECONDS: Rows = [
    (argument, value, ["seconds", "math.inf means no limit"])
    for argument in ("slow_after", "hung_after", "drain_deadline")
    for value in NO_SECONDS
]
OTHERS: Rows = [
    ("hung_after", 0, ["more than 0 seconds"]),
    ("max_workers", 3, ["2 workers of the backend", "at most 2"]),
    *(
        ("overload", value, ["'reject'", "'block'", "'caller_runs'"])
        for value in ("drop", "REJECT", "", None, True, 1, ["reject"])
    ),
    *(("on_hang_exit", value, ["'exit'", "'wait'"]) for value in ("kill", None, True)),
    *(("name", value, ["such as 'webhook-delivery'"]) for value in NO_NAMES),
    *(
        ("buckets", value, ["must be", "seconds"])
        for value in ((), (1, 1), (2, 1), (INF,), (INF, INF), 5, True)
    ),
    *(("breaker", value, ["BreakerPolicy", "pybreaker.CircuitBreaker"]) for value in (3, "on", True, dict)),
    *(("logger", value, ["logger"]) for value in (42, "prodpool", print)),
    *(("registry", value, ["CollectorRegistry"]) for value in ("default", 42, CollectorRegistry)),
    *(("tracer_provider", value, ["TracerProvider"]) for value in ("global", 42)),
    *(("clock", value, ["monotonic"]) for value in ("now", 42)),
    *(("prefetch", value, ["leave it out"]) for value in (1, 0, "2")),
    *(
        ("context_vars", value, ["'module:variable'"])
        for value in ("os:environ", (3,), ("os",), ("os:environ",))
    ),
    *(("own_backend", value, ["True or False"]) for value in ("no", None, 0)),
    *(("context", value, ["'copy'", "'empty'"]) for value in ("request", "", None, True)),
    *(("log_levels", value, ["such as"]) for value in ("info", 3, ["task.slow"])),
    ("log_levels", {"task.fast": "info"}, ["'task.fast' is not an event", "task.slow"]),
    ("log_levels", {3: "info"}, ["3 is not an event"]),
    *(
        ("log_levels", {"task.slow": level}, [f"{level!r} is not a level", "debug, info"])
        for level in ("INFO", "notice", "", None, 20)
    ),
    *(("task_metrics", value, ["sequence of names"]) for value in ("send_mail", 3, True, len)),
    *(
        ("task_metrics", value, [why, way_out])
        for value, why, way_out in (
            ((), "is empty", "or pass None"),
            (["send", 3], "3 must be a string", "such as"),
            (["send", ""], "'' must have 1 to 200", "such as"),
            (["send\n"], "'send\\n' must have 1 to 200 printable", "such as"),
            (["send", "send"], "'send' is there twice", "name each task once"),
            (["send", "other"], "'other' is what all other tasks are counted as", "leave it out"),
            ([f"task_{number}" for number in range(51)], "has 51 names", "at most 50"),
        )
    ),
    *(
        ("around", value, [why, "returns a context manager"])
        for value, why in (
            (3, "cannot be called"),
            (nullcontext(), "is a context manager itself"),
            (enter_app, "needs arguments"),
            (forgot_the_decorator, "without contextlib.contextmanager"),
            (opens_soon, "is asynchronous"),
            (asynccontextmanager(opens_later), "is asynchronous"),
            (partial(asynccontextmanager(opens_later)), "is asynchronous"),
        )
    ),
]


def identify(value: object) -> str:
    return "HUGE" if value == HUGE else "-HUGE" if value == -HUGE else repr(value)[:40]


def shown(value: object) -> str:
    """How a value appears in a message; for some only its beginning is asked for."""
    return repr(value)[:12]


@pytest.fixture
def backend() -> Any:
    """Return an executor with two threads, which must not be started by a pool that was never made."""
    with ThreadPoolExecutor(2) as executor:
        yield executor
        assert not executor._threads


@pytest.mark.parametrize(("argument", "value", "words"), COUNTS + SECONDS + OTHERS, ids=identify)
def test_constructor(
    backend: ThreadPoolExecutor, registry: CollectorRegistry, argument: str, value: object, words: list[str]
) -> None:
    """The constructor refuses it, leaves nothing behind, and takes a good argument afterwards."""
    options: dict[str, Any] = {"name": "test", "registry": registry}
    threads = threading.active_count()
    with pytest.raises((TypeError, ValueError)) as caught:
        InstrumentedPool(backend, **{**options, argument: value})
    message = str(caught.value)
    assert [word for word in (f"{argument}={shown(value)}", *words) if word not in message] == []
    assert threading.active_count() <= threads
    assert list(registry.collect()) == []
    pool = InstrumentedPool(backend, **options, own_backend=False)
    pool.stop(1.0)


@pytest.mark.parametrize("bound", [0, -1, NAN, "1", True, None, HUGE], ids=identify)
def test_bucket_bound(backend: ThreadPoolExecutor, registry: CollectorRegistry, bound: Any) -> None:
    """A bad bound among good ones is named, the one that is bad."""
    with pytest.raises((TypeError, ValueError), match=f"buckets={shown(bound)}.*(pass|must)"):
        InstrumentedPool(backend, name="test", registry=registry, buckets=(0.1, 1, bound))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["no submit()"]),
        (42, ["no submit()"]),
        ("ThreadPoolExecutor", ["no submit()"]),
        (object(), ["no submit()"]),
        (SimpleNamespace(executor=ThreadPoolExecutor(1)), ["no submit()", "pass its .executor"]),
        (ThreadPoolExecutor, ["is a class", "such as ThreadPoolExecutor(max_workers=8)"]),
        (ProcessPoolExecutor, ["is a class", "such as ProcessPoolExecutor(max_workers=8)"]),
    ],
    ids=["None", "int", "str", "object", "a view", "a class", "another class"],
)
def test_backend(registry: CollectorRegistry, value: Any, words: list[str]) -> None:
    """A backend that cannot be used is refused with a word on what can be."""
    with pytest.raises(TypeError) as caught:
        InstrumentedPool(value, name="test", registry=registry)
    assert [word for word in ("backend=", "PoolExecutor", *words) if word not in str(caught.value)] == []


def test_a_pool_of_a_pool(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool is no backend for another one."""
    pool = make_pool(1)
    for backend in (pool, pool.options(task="view")):
        with pytest.raises(TypeError, match="is a pool already"):
            InstrumentedPool(backend, name="other", registry=registry)


def test_a_factory_without_its_number(registry: CollectorRegistry) -> None:
    """A factory is called with the number of workers, which has to be given."""
    with pytest.raises(TypeError, match=r"max_workers=None"):
        InstrumentedPool(Keeping.sized, name="test", registry=registry)
    with InstrumentedPool(ThreadPoolExecutor, name="test", max_workers=3, registry=registry) as pool:
        assert pool.stats().workers == 3


def test_a_subclass_that_keeps_its_submit(registry: CollectorRegistry) -> None:
    """A ThreadPoolExecutor subclass that keeps its submit is taken as one."""
    with InstrumentedPool(Keeping(2), name="test", registry=registry) as pool:
        assert pool.stats().workers == 2


def test_a_worker_count_nobody_knows(registry: CollectorRegistry) -> None:
    """Without max_workers a backend that does not say its size is refused."""
    for backend in (DaemonThreadExecutor("test"), Executor()):
        with pytest.raises(ValueError, match=r"max_workers=None.*pass max_workers"):
            InstrumentedPool(backend, name="test", registry=registry)


def test_a_subclass_with_a_submit_of_its_own(registry: CollectorRegistry) -> None:
    """A ThreadPoolExecutor subclass that replaces submit is handed each task by it, and says its size."""
    with InstrumentedPool(Overriding(2), name="test", registry=registry) as pool:
        assert pool.stats().workers == 2
        assert pool.submit(len, "mail").result(PATIENCE) == 4
        assert not pool._engine.abilities.leased


def test_the_private_name_that_the_size_is_read_from() -> None:
    """ThreadPoolExecutor has _max_workers, the one place where its size is said, and it is its size."""
    with ThreadPoolExecutor(3) as executor:
        assert executor._max_workers == 3
    with ThreadPoolExecutor() as executor:
        assert executor._max_workers >= 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("task", value) for value in ("", 3, b"name", True, len)),
        *(("deadline", value) for value in (0, -1, NAN, "5", True, HUGE)),
        *(("wait", value) for value in (-1, NAN, "5", True, -INF)),
        *(("idempotent", value) for value in (1, "yes")),
    ],
    ids=identify,
)
def test_options(make_pool: MakePool, option: str, value: object) -> None:
    """options() refuses a bad value at once, on a pool and on a view."""
    pool = make_pool(1)
    for executor in (pool, pool.options(task="good")):
        with pytest.raises(
            (TypeError, ValueError), match=f"{option}={shown(value)}".replace("(", r"\(")
        ) as caught:
            executor.options(**{option: value})  # type: ignore[arg-type]
        assert re.search("pass|must", str(caught.value))


@pytest.mark.parametrize("name", ["mail\nERROR forged", "\x1b[31mred", "x" * 201, "\u2028"], ids=identify)
def test_task_name_that_would_spoil_a_log(make_pool: MakePool, name: str) -> None:
    """A task's name goes into log lines as it is: no line breaks, no control characters, no novels."""
    with pytest.raises(ValueError, match="printable characters") as caught:
        make_pool(1).options(task=name)
    assert repr(name) in str(caught.value)


def test_unknown_option(make_pool: MakePool) -> None:
    """An unknown option is a TypeError that names it."""
    with pytest.raises(TypeError, match="priority"):
        make_pool(1).options(priority=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("buffersize", value) for value in [*NO_COUNTS, 0, -1]),
        *(("chunksize", value) for value in [*NO_COUNTS, None, 0, -1]),
        *(("timeout", value) for value in [NAN, "1", [], HUGE]),
    ],
    ids=identify,
)
def test_map(make_pool: MakePool, argument: str, value: object) -> None:
    """map() refuses a bad value before it reads or submits anything."""
    pool = make_pool(1)
    items = iter("abc")
    for executor in (pool, pool.options(task="good")):
        with pytest.raises((TypeError, ValueError)) as caught:
            executor.map(str, items, **{argument: value})  # type: ignore[arg-type]
        assert f"{argument}={value!r}" in str(caught.value)
        assert re.search("pass|must", str(caught.value))
    assert next(items) == "a"
    assert pool.stats().offered == 0


@pytest.mark.parametrize("value", [0, -1, 3, 1.5, "2", True, None, NAN, INF], ids=identify)
def test_resize(make_pool: MakePool, value: Any) -> None:
    """resize() refuses what is no count, or more than the backend has; the pool keeps its size."""
    pool = make_pool(2)
    with pytest.raises((TypeError, ValueError), match=f"max_workers={value!r}.*(pass|must)"):
        pool.resize(value)
    assert pool.stats().workers == 2


@pytest.mark.parametrize("value", [-1, NAN, "1", True, -INF, HUGE], ids=identify)
def test_stop(make_pool: MakePool, value: Any) -> None:
    """stop() refuses what is no duration, and the pool stays open."""
    pool = make_pool(1)
    with pytest.raises((TypeError, ValueError), match=f"deadline={shown(value)}.*(pass|must)"):
        pool.stop(value)
    assert pool.stats().state == "open"


@pytest.mark.parametrize("value", [0, 1, 0.5, INF], ids=identify)
def test_good_durations(registry: CollectorRegistry, value: float) -> None:
    """Whole numbers, fractions, 0 (where never makes sense) and infinity are durations."""
    options: dict[str, Any] = {"slow_after": value, "drain_deadline": value}
    if value:
        options["hung_after"] = value
    InstrumentedPool(ThreadPoolExecutor(1), name="test", registry=registry, **options).stop(1.0)
