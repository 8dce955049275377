"""What the demonstration says at its end: a reader can add it up, and knows who counted what."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the demonstration's screen needs the demo extra")

from rich.console import Console

from examples.webhook_service.acts import ACTS
from examples.webhook_service.closing import account, account_notes, hung_sample, measures, senders_say
from examples.webhook_service.events import EventLog
from examples.webhook_service.report import Window, broken_law, window
from examples.webhook_service.scrape import Snapshot
from examples.webhook_service.traffic import Tally
from tests.examples.exposition import snapshot

# Each act leaves something to the next, and all but "cancelled" and "panic" grow at some time.
SCRAPES = (
    snapshot(0.0),
    snapshot(1.0, submitted=160, ok=130, queue_depth=12, workers_busy=8),
    snapshot(2.0, submitted=190, ok=160, error=7, queue_depth=12, workers_busy=6, full=19, breaker_open=2),
    snapshot(
        3.0,
        submitted=200,
        ok=165,
        error=7,
        timeout=1,
        expired=2,
        shutdown=15,
        queue_depth=0,
        workers_busy=8,
        full=19,
        breaker_open=2,
        closed=1,
        stopped=1,
    ),
)


def _windows() -> list[Window]:
    return [window([before, after]) for before, after in pairwise(SCRAPES)]


def _drawn(width: int, *what: Any) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False, color_system=None)
    for each in what:
        console.print(each)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _account(width: int = 120) -> str:
    return _drawn(width, account(ACTS[:3], _windows(), window(SCRAPES)))


def test_each_row_of_the_account_adds_up() -> None:
    """In flight before + offered = everything to the right, in every act and in the whole run."""
    assert [broken_law(scrape) for scrape in SCRAPES] == [None] * 4
    rows = re.findall(r"^(\d \D+|all)((?: +\d+)+) *$", _account(), re.MULTILINE)
    numbers = [[int(number) for number in row.split()] for _, row in rows]
    assert [name.strip() for name, _ in rows] == [
        *(f"{n} {act.title}" for n, act in enumerate(ACTS[:3], start=1)),
        "all",
    ]
    assert [(row[0], row[1], row[-1]) for row in numbers] == [
        (10, 60, 20),
        (20, 44, 18),
        (18, 11, 8),
        (10, 115, 8),
    ]
    assert [row[0] + row[1] - sum(row[2:]) for row in numbers] == [0, 0, 0, 0]


def test_the_account_has_a_column_for_whatever_happened() -> None:
    """What is rare gets a column in the run in which it happens, and none in another."""
    head = " ".join(_account().split("─")[0].split())
    for name in ("time- ", "ex- ", "closed "):
        assert name in head
    for name in ("panic ", "can- ", "tenant "):
        assert name not in head
    calm = window([snapshot(0.0), snapshot(1.0, submitted=160, ok=140)])
    assert "time-" not in _drawn(120, account(ACTS[:1], [calm], calm))


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_the_terminal(width: int) -> None:
    """No number is cut off and no line wraps, also in a narrow terminal."""
    drawn = _drawn(width, account(ACTS[:3], _windows(), window(SCRAPES)), measures(ACTS[:3], _windows()))
    assert max(map(len, drawn.splitlines())) <= width
    assert "…" not in drawn
    assert drawn.count("before") == drawn.count("after") == 1
    for number in (115, 85, 12):
        assert f" {number} " in drawn


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (SCRAPES[-1], "8 in flight after the last act were abandoned: still running in the last scrape"),
        (snapshot(3.0, queue_depth=0, workers_busy=0, ok=90, stopped=1), None),
    ],
    ids=["abandoned", "drained"],
)
def test_what_was_never_finished_is_explained(last: Snapshot, said: str | None) -> None:
    """The reader learns why the last row ends with tasks in flight, if it does."""
    notes = " ".join(account_notes(last))
    assert "in flight before + offered =" in notes
    assert ("abandoned" in notes) is (said is not None)
    assert said is None or said in notes
    assert ("1 refused as closed" in notes) is (last is SCRAPES[-1])


def test_the_senders_counts_add_up() -> None:
    """Every refusal is either waited out or the end of its webhook, and it is said who counted it."""
    tally = Tally(
        accepted=2320, refused={"full": 733, "breaker_open": 480}, missed=18, waited=279, lost=934, cut=1
    )
    said = " ".join(senders_say(tally))
    assert said.startswith("Counted by the senders")
    assert "2320 answers 202, 733 answers 429, 480 answers 503" in said
    assert "279 of these 1213 refusals" in said
    assert "other 934" in said
    assert "18 requests never reached the pool" in said
    assert "1 answer was lost on the way" in said
    calm = " ".join(senders_say(Tally(accepted=3)))
    assert "never reached" not in calm
    assert "lost" not in calm
    assert "refusals" not in calm


def test_one_hung_stack_is_shown_trimmed(tmp_path: Path) -> None:
    """The frames at both ends of the first hung task's stack are shown, and where in the log the rest is."""
    frames = [f'  File "/usr/lib/x{n}.py", line {n}, in f{n}\n    call_{n}()\n' for n in range(9)]
    records: list[dict[str, Any]] = [
        {"event": "service.started"},
        {"event": "task.still_running", "task": "deliver.initech", "elapsed": 1.04, "stack": "".join(frames)},
        {"event": "task.still_running", "task": "deliver.acme", "elapsed": 1.1, "stack": frames[0]},
    ]
    log = tmp_path / "service.log"
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    events = EventLog(log)
    events.read()
    said = hung_sample(events)
    assert said[0] == "The first of 2 task.still_running in the log (line 2): deliver.initech, for 1.04 s, at"
    assert [line.strip() for line in said[1:]] == [
        'File "/usr/lib/x0.py", line 0, in f0',
        "call_0()",
        "... 7 frames more ...",
        'File "/usr/lib/x8.py", line 8, in f8',
        "call_8()",
    ]


def test_no_hung_task_no_stack(tmp_path: Path) -> None:
    """Nothing is shown of what did not happen."""
    assert hung_sample(EventLog(tmp_path / "service.log")) == []
