"""A process ends within its deadline although a task hangs for ever, and loses nothing in doing so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.process.children import LEEWAY, TOO_LONG, Ended, end, finish, start
from tests.support import PACKAGE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DEADLINE = 0.2
# The deadline of each of several pools, of which no two can have had theirs one after the other.
SEVERAL = 5.0
BACKENDS = ("executor", "threads")
# Ways to end with a task that hangs, and the status each leaves.
HUNG = {"stopped": 0, "left_with": 0, "left_alone": 0, "exits_3": 3, "raises": 1, "blocked_in_c": 0}
CLEAN = ("unused", "idle")
OTHERS = (
    "unreferred",
    "paused",
    "several",
    "own_thread",
    "holds_log",
    "holds_log_noticed",
    "other_hook",
    "born_late",
    "drains",
    "first_span",
    "closed_stream",
    "hung_log",
    "hung_log_stopped",
    "hung_exporter",
    "busy_exporter",
    "hung_callback",
)
ORDER = ["pool.created", "pool.draining", "pool.drain_deadline", "task.abandoned", "pool.stopped"]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """Run every program to its end, two side by side, before the first test looks at one."""
    folder = tmp_path_factory.mktemp("ended")
    cases = [(way, backend) for way in (*HUNG, *CLEAN) for backend in BACKENDS]
    cases += [(way, "executor") for way in OTHERS]
    cases += [("holds_log", "threads"), ("left_alone", "own_submit")]
    with ThreadPoolExecutor(2) as runner:
        futures = {case: runner.submit(end, *case, folder) for case in cases}
        return {case: future.result() for case, future in futures.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", HUNG)
def test_hung_task(ended: dict[tuple[str, str], Ended], way: str, backend: str) -> None:
    """It ends in time, with the status that the program chose, its last lines, spans and atexit callbacks."""
    child = ended[way, backend]
    assert child.seconds < DEADLINE + LEEWAY, child
    assert child.status == HUNG[way], child
    assert child.events() == ORDER
    assert "abandoned=1" in child.logged("pool.stopped")
    assert "task=hang.<locals>.hung_task" in child.logged("task.abandoned")
    # The stack is a part of the line, and was not cut off.
    assert any("in hung_task" in line for line in child.out)
    assert child.out[-1] == "ATEXIT"
    # The hung task's own span as well: its trace is the one that will be looked for.
    assert {"workerpool.task hello", "workerpool.task hang.<locals>.hung_task"} <= set(child.spans)


def test_hung_task_of_an_executor_that_is_not_leased(ended: dict[tuple[str, str], Ended]) -> None:
    """Its thread is left behind as well: one with a `submit` of its own, which gets its tasks one by one."""
    child = ended["left_alone", "own_submit"]
    assert child.seconds < DEADLINE + LEEWAY, child
    assert child.status == 0, child
    assert child.events() == ORDER
    assert "task=hang.<locals>.hung_task" in child.logged("task.abandoned")
    assert any("in hung_task" in line for line in child.out)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", [way for way in HUNG if way != "raises"])
def test_quiet(ended: dict[tuple[str, str], Ended], way: str, backend: str) -> None:
    """Nothing on stderr tells of how the threads were left."""
    assert ended[way, backend].err == ""


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_applications_own_traceback(ended: dict[tuple[str, str], Ended], backend: str) -> None:
    """A program that dies of an exception shows that one and no other."""
    err = ended["raises", backend].err
    assert err.count("Traceback") == 1
    assert err.splitlines()[-1] == "LookupError: the application's own error"
    assert str(PACKAGE) not in err


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("way", CLEAN)
def test_nothing_hangs(ended: dict[tuple[str, str], Ended], way: str, backend: str) -> None:
    """A pool that was never used, or whose workers are idle, does not hold up the end and is silent."""
    child = ended[way, backend]
    assert child.seconds < LEEWAY, child
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    assert child.events() == ["pool.created"]


def test_pool_nobody_refers_to(ended: dict[tuple[str, str], Ended]) -> None:
    """A pool that was let go while a task hangs in it is given no more than its deadline either."""
    child = ended["unreferred", "executor"]
    assert child.seconds < DEADLINE + LEEWAY, child
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    assert child.events() == ORDER


def test_paused_pool(ended: dict[tuple[str, str], Ended]) -> None:
    """What waits in a paused pool runs at exit, or is dropped and counted where no thread can be started."""
    child = ended["paused", "executor"]
    assert child.seconds < DEADLINE + LEEWAY, child
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    (line,) = (line for line in child.out if "pool.stopped pool=fresh" in line)
    ran = [line for line in child.out if line.startswith("RAN")]
    assert f"dropped={2 - len(ran)} " in line
    assert ran == ["RAN 0", "RAN 1"][: len(ran)]


def test_several_pools(ended: dict[tuple[str, str], Ended]) -> None:
    """Four pools that all hang drain side by side, within one deadline."""
    child = ended["several", "executor"]
    assert child.seconds < SEVERAL + LEEWAY < 4 * SEVERAL, child
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    assert child.events().count("task.abandoned") == 4
    assert child.events().count("pool.stopped") == 4, "the fifth has nothing to drain"


def test_own_threads_of_the_application(ended: dict[tuple[str, str], Ended]) -> None:
    """Its other executors and non-daemon threads end as they would without a pool: when they are done."""
    child = ended["own_thread", "executor"]
    assert [line for line in child.out if line.startswith("O")] == [
        *(f"OTHER {number}" for number in range(5)),
        "OWN THREAD",
    ]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")


def test_process_pool_imported_later(ended: dict[tuple[str, str], Ended]) -> None:
    """An exit hook that was registered after ours runs as well; no worker process is left behind."""
    child = ended["other_hook", "executor"]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    (worker,) = (int(line.split()[1]) for line in child.out if line.startswith("WORKER"))
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_pool_built_in_an_atexit_callback(ended: dict[tuple[str, str], Ended]) -> None:
    """A pool that comes when everything goes works, or says that it cannot; the process ends."""
    child = ended["born_late", "executor"]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    expected = {"LATE 0", "LATE RuntimeError", "LATE PoolClosedError"}
    assert expected.intersection(child.out), child


@pytest.mark.parametrize(
    ("way", "backend"),
    [("holds_log", "executor"), ("holds_log", "threads"), ("holds_log_noticed", "executor")],
)
def test_last_resort(ended: dict[tuple[str, str], Ended], way: str, backend: str) -> None:
    """A task that hangs with the lock of the log in its hand does not keep the process either.

    Nothing orderly is possible then: it is ended hard, and stderr says where everybody hung.
    """
    child = ended[way, backend]
    assert child.seconds < TOO_LONG / 2, child
    assert child.status == 1, child
    assert "hold_the_lock" in child.err


def test_a_pool_with_something_to_drain(ended: dict[tuple[str, str], Ended]) -> None:
    """A pool that still has tasks when the exit begins drains them and says so."""
    child = ended["drains", "executor"]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    assert child.events() == ["pool.created", "pool.draining", "pool.stopped"]
    assert "drained=True" in child.logged("pool.stopped")


def test_the_first_span_at_exit(ended: dict[tuple[str, str], Ended]) -> None:
    """A span is ended at exit although no thread can be started for it any more."""
    child = ended["first_span", "executor"]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
    assert "workerpool.task last" in child.spans


def test_a_closed_stream(ended: dict[tuple[str, str], Ended]) -> None:
    """An idle pool writes nothing into a stream that the application has closed before its end."""
    child = ended["closed_stream", "executor"]
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")


@pytest.mark.parametrize("way", ["hung_log", "hung_log_stopped", "hung_exporter"])
def test_hung_sink(ended: dict[tuple[str, str], Ended], way: str) -> None:
    """A log handler that hangs with its lock in its hand, or an exporter, does not keep the process."""
    child = ended[way, "executor"]
    assert child.seconds < DEADLINE + LEEWAY, child
    if way == "hung_exporter":
        assert (child.status, child.out[-1]) == (0, "ATEXIT"), child
    else:
        # logging's own atexit callback waits for that lock; stderr says who has it.
        assert child.status == 1, child
        assert "in emit" in child.err


def test_busy_exporter(ended: dict[tuple[str, str], Ended]) -> None:
    """An exporter that is behind at the exit hangs in none of its calls: the process ends as it will."""
    child = ended["busy_exporter", "executor"]
    assert (child.status, child.err, child.out[-2:]) == (0, "", ["LAST", "ATEXIT"]), child


def test_hung_callback(ended: dict[tuple[str, str], Ended]) -> None:
    """A done-callback of a dropped task that hangs with the log's lock in its hand does not either."""
    child = ended["hung_callback", "executor"]
    assert child.seconds < DEADLINE + LEEWAY, child
    assert child.status == 1, child
    assert "hold_the_lock" in child.err


def test_sigterm(tmp_path: Path) -> None:
    """A handler that stops the pool and exits has its way, and its status."""
    for backend in BACKENDS:
        folder = tmp_path / backend
        folder.mkdir()
        process = start("ending", "terminated", backend, str(folder))
        begun = lines_until(process, "AT WORK")
        process.send_signal(signal.SIGTERM)
        child = finish(process, folder, begun)
        assert child.seconds < DEADLINE + LEEWAY, child
        assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")
        assert child.events() == ORDER
        assert "REPORT ('hang.<locals>.hung_task',)" in child.out
        assert "workerpool.task hello" in child.spans


def test_on_hang_exit_wait(tmp_path: Path) -> None:
    """With ``on_hang_exit="wait"`` the process ends when the task does, and not before."""
    process = start("ending", "waits", "executor", str(tmp_path))
    begun = lines_until(process, "LOG pool.stopped pool=waiting")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    child = finish(process, tmp_path, begun)  # which closes its stdin, for which the task waits
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT")


def test_ctrl_c_during_the_drain_at_exit(tmp_path: Path) -> None:
    """Ctrl-C cuts a long drain at exit short, and what is given up by that is named."""
    process = start("ending", "interrupted", "executor", str(tmp_path))
    begun = lines_until(process, "LOG pool.draining pool=patient")
    process.send_signal(signal.SIGINT)
    child = finish(process, tmp_path, begun)
    assert child.seconds < TOO_LONG / 2, child
    assert "KeyboardInterrupt" in child.err
    told = [line.split()[1] for line in child.out if line.startswith("LOG ") and "pool=patient" in line]
    assert told[-2:] == ["task.abandoned", "pool.stopped"]
    assert child.out[-1] == "ATEXIT"


def lines_until(process: subprocess.Popen[str], beginning: str) -> list[str]:
    """Read stdout up to the line that begins so."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(beginning):
            return lines
    pytest.fail(f"{sys.executable} ended before it said {beginning!r}: {lines}")
