"""Where a task hangs in a worker process can be seen from outside, and what cannot be seen is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, over_processes
from tests.helpers.waiting import until
from tests.support import PACKAGE

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
only_processes = pytest.mark.parametrize("kind", over_processes, indirect=True)
one_kind = pytest.mark.parametrize("kind", ["forkserver"], indirect=True)
SECRET = "4111-1111"  # noqa: S105


@only_processes
def test_dump(make_pool: MakePool, tmp_path: Path) -> None:
    """dump() shows what each worker process does, and not with what arguments."""
    pool = make_pool(2, queue_capacity=3)
    marks = [tmp_path / f"{SECRET}-{number}" for number in range(2)]
    pool.options(task="hangs").submit(work.hang, str(marks[0]))
    pool.options(task="limited", timeout=60.0).submit(work.hang, str(marks[1]))
    until(lambda: all(mark.exists() and mark.read_text() for mark in marks), PATIENCE)
    waits = pool.options(task="waits").submit(int)
    # Each says that it runs just before it hangs, and a busy machine may show what comes in between.
    texts: list[str] = []

    def both_hang() -> bool:
        texts.append(pool.dump())
        return texts[-1].count("    time.sleep(60.0)") == 2

    until(both_hang, PATIENCE)
    text = texts[-1]
    assert f"pool {pool.name!r} open: 2 of 2 workers busy, 1 of 3 waiting places taken" in text
    for mark, name in zip(marks, ("hangs", "limited"), strict=True):
        part = next(part for part in text.split("\n\n") if part.startswith(f"{name}, for "))
        assert f" in process {mark.read_text()}\n" in part
        assert part.splitlines()[-2:] == [
            f'  File "{work.__file__}", line {_line_of("time.sleep(60.0)")}, in hang',
            "    time.sleep(60.0)",
        ]
        assert str(PACKAGE) not in part
    assert SECRET not in text
    waits.cancel()


def _line_of(code: str) -> int:
    lines = Path(work.__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.strip() == code)


@only_processes
def test_the_watchdog_shows_it(make_pool: MakePool, tmp_path: Path) -> None:
    """A task that hangs in a worker process is logged with its stack while it runs."""
    pool = make_pool(1, hung_after=0.1)
    pool.options(task="hangs").submit(work.hang, str(tmp_path / "mark"))
    # It is warned of again and again: also while its worker process comes up, and loads what it is to call.
    line = make_pool.logs.wait_for(
        "task.still_running", timeout=PATIENCE, where=lambda line: ", in hang\n" in line["stack"]
    )
    assert line["task"] == "hangs"


@one_kind
def test_a_process_that_does_not_answer(make_pool: MakePool, tmp_path: Path) -> None:
    """A stopped process is given half a second."""
    pool = make_pool(1)
    mark = tmp_path / "mark"
    pool.submit(work.hang, str(mark))
    until(lambda: mark.exists() and mark.read_text(), PATIENCE)
    os.kill(int(mark.read_text()), signal.SIGSTOP)
    assert f"(no stack: worker process {mark.read_text()} did not answer within 0.5 s)" in pool.dump()


@one_kind
def test_a_signal_that_is_taken(make_pool: MakePool, tmp_path: Path) -> None:
    """A process that uses the signal itself is not sent it."""
    pool = make_pool(1, factory_of=lambda _: work.with_signal_taken)
    mark = tmp_path / "mark"
    pool.submit(work.hang, str(mark))
    until(lambda: mark.exists() and mark.read_text(), PATIENCE)
    assert f"(no stack: worker process {mark.read_text()} cannot be asked: the signal is taken" in pool.dump()


@one_kind
def test_before_it_begins(make_pool: MakePool, tmp_path: Path) -> None:
    """A task whose worker is still coming up has no stack, and is not shown as running."""
    go = tmp_path / "go"
    pool = make_pool(1, factory_of=lambda _: lambda workers: work.that_waits_for(str(go), workers))
    waits = pool.options(task="waits").submit(int)
    try:
        assert pool.dump().startswith(f"pool {pool.name!r} open: 1 of 1 workers busy")
        assert "waits, for" not in pool.dump()
    finally:
        go.touch()
    assert waits.result(PATIENCE) == 0


@pytest.mark.parametrize("kind", [pytest.param("dask", marks=pytest.mark.once), "handed"], indirect=True)
def test_where_nobody_can_be_asked(make_pool: MakePool, held: Held) -> None:
    """Where there is no worker process of the pool's own, the text says so."""
    pool = make_pool(1)
    held.submit(pool)
    held.wait_running(1)
    text = pool.dump()
    assert "hold, for " in text
    assert "(no stack: only worker processes of the pool's own can be asked for one)" in text
    held.let_go()
