from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rich", reason="the demonstration's screen needs the demo extra")

from rich.console import Console

from examples.webhook_service.acts import ACTS
from examples.webhook_service.events import EventLog
from examples.webhook_service.live import LiveView, spark
from examples.webhook_service.report import broken_law, window
from examples.webhook_service.screen import Moment, PlainView, seconds
from tests.examples.exposition import snapshot


def _moment(events: EventLog, *, number: int = 2, elapsed: float = 12.0, **numbers: Any) -> Moment:
    before, now = snapshot(0.0), snapshot(1.0, **numbers)
    return Moment(
        act=ACTS[number - 1],
        number=number,
        acts=len(ACTS),
        act_elapsed=3.0,
        elapsed=elapsed,
        now=now,
        recent=window([before, now]),
        scrapes=48,
        broken=broken_law(now),
        events=events,
    )


def _console(width: int, height: int) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=False, color_system=None)


def _drawn(console: Console, what: Any) -> str:
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def events(tmp_path: Path) -> EventLog:
    """Return a log with an event that repeats."""
    log = tmp_path / "service.log"
    record = {"event": "task.error", "level": "warning", "timestamp": "2026-11-22T18:00:45Z", "stack": "long"}
    log.write_text(
        "".join(json.dumps({**record, "task": f"deliver.{name}"}) + "\n" for name in ("acme", "hooli"))
    )
    read = EventLog(log)
    read.read()
    return read


@pytest.mark.parametrize(("width", "height"), [(120, 40), (100, 30), (80, 24)], ids=str)
def test_the_table_fits_the_terminal(events: EventLog, width: int, height: int) -> None:
    """Whatever the terminal's size, act, numbers and the law's state are on it, and nothing runs over."""
    console = _console(width, height)
    view = LiveView(console)
    view.render(_moment(events))
    drawn = _drawn(
        console, view.render(_moment(events, elapsed=13.0, queue_depth=32, workers_busy=8, submitted=130))
    )
    lines = drawn.splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert f"Act 2 of 7: {ACTS[1].title}" in lines[0]
    assert "32 of 32" in drawn
    assert "holds in all of 48 scrapes" in drawn
    assert "task.error x2" in drawn
    assert " ".join(ACTS[1].watch.split()[-3:]) in " ".join(drawn.replace("│", "").split())


@pytest.mark.parametrize("number", range(1, len(ACTS) + 1))
def test_a_low_terminal_has_room_for_the_log_in_every_act(
    tmp_path: Path, events: EventLog, number: int
) -> None:
    """With 24 lines of 80 columns there are at least four lines of log, however long the act's sentence."""
    records = [{"event": f"event.{n}", "timestamp": f"2026-11-22T18:00:0{n}.5Z"} for n in range(9)]
    with (tmp_path / "service.log").open("a") as log:
        log.writelines(json.dumps(record) + "\n" for record in records)
    events.read()
    console = _console(80, 24)
    drawn = _drawn(console, LiveView(console).render(_moment(events, number=number)))
    assert len(drawn.splitlines()) <= 24
    shown = re.findall(r"event\.\d|task\.error", drawn)
    assert shown == [*(f"event.{n}" for n in range(9)), "task.error"][-len(shown) :]
    assert len(shown) >= 4


def test_the_log_is_in_the_order_of_time(tmp_path: Path) -> None:
    """Each event has one line, its last one, with how many there were; the newest comes last."""
    log = tmp_path / "service.log"
    written = [("a", 1.0), ("b", 2.0), ("c", 3.0), ("a", 4.25), ("d", 5.0), ("b", 4.5), ("e", 4.0)]
    records = [
        {"event": event, "timestamp": f"2026-11-22T18:00:0{second}Z", "task": f"t{n}"}
        for n, (event, second) in enumerate(written)
    ]
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    read = EventLog(log)
    read.read()
    assert [(line.time, line.event, line.times, line.fields) for line in read.lines] == [
        ("18:00:03", "c", 1, "task=t2"),
        ("18:00:04", "e", 1, "task=t6"),
        ("18:00:04", "a", 2, "task=t3"),
        ("18:00:04", "b", 2, "task=t5"),
        ("18:00:05", "d", 1, "task=t4"),
    ]


def test_bars_have_a_scale(events: EventLog) -> None:
    """Beside each row's bars stand its value now, its greatest in the time shown, and what a full bar is."""
    console = _console(120, 40)
    view = LiveView(console)
    for elapsed, depth, full in ((11.0, 20, 7), (12.0, 31, 207), (12.4, 9, 7)):
        view.render(_moment(events, elapsed=elapsed, queue_depth=depth, full=full))
    drawn = _drawn(console, view.render(_moment(events, elapsed=13.0, queue_depth=16)))
    lines = {line[:23].strip(): line[23:].split() for line in drawn.splitlines()}
    assert lines["queued"] == ["16", "of", "32", "31", "32", "▅█▅"]
    assert lines["refused: full (429)"] == ["0", "/s", "200", "/s", "120", "/s", "·█·"]
    assert lines["longest running"] == ["1.50", "s", "1.50", "s", "1.50", "s", "███"]
    assert lines["breaker"] == ["closed", "closed", "open", "···"]


def test_a_broken_law_is_on_the_screen(events: EventLog) -> None:
    """An operator sees at once that numbers do not add up, and which."""
    console = _console(120, 40)
    drawn = _drawn(console, LiveView(console).render(_moment(events, submitted=101)))
    assert "conservation law BROKEN: submitted 101, but" in drawn


def test_without_a_terminal_there_is_a_line_now_and_then(events: EventLog) -> None:
    """Off a terminal an act is announced once, and the numbers come every few seconds, one line each."""
    console = _console(200, 40)
    with PlainView(console, every=5.0) as view:
        for elapsed in (10.0, 10.5, 12.0, 14.0, 17.5):
            view.show(_moment(events, elapsed=elapsed, full=37))
    lines = _drawn(console, "").splitlines()
    assert [line[:13] for line in lines if line] == ["act 2 of 7: A", "    12 s  off", "    18 s  off"]
    assert "full=37" in lines[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0123, "12 ms"), (1.254, "1.25 s"), (12.3, "12 s")],
    ids=str,
)
def test_times_are_written_for_people(value: float | None, text: str) -> None:
    """Milliseconds below a second, then seconds."""
    assert seconds(value) == text


def test_bars_grow_with_their_values() -> None:
    """Nothing is a dot, something is at least the lowest bar, and the top is never passed."""
    assert spark([0.0, 0.001, 0.5, 1.0, 9.0], 1.0) == "·▁▅██"


def test_a_line_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """The log may be read while it is written."""
    log = tmp_path / "service.log"
    read = EventLog(log)
    read.read()
    log.write_text('{"event": "pool.created", "leve')
    read.read()
    assert not read.lines
    with log.open("a") as file:
        file.write('l": "info"}\n')
    read.read()
    assert dict(read.counts) == {"pool.created": 1}
