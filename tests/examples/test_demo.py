from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

from examples.webhook_service import demo as module
from examples.webhook_service.acts import ACTS
from examples.webhook_service.closing import NO_PROMETHEUS
from examples.webhook_service.demo import Demo, main, print_report
from examples.webhook_service.events import EventLog
from examples.webhook_service.report import window
from examples.webhook_service.traffic import Tally
from tests.examples.exposition import snapshot
from tests.support import ROOT, missing


def _played(tmp_path: Path, **last: int) -> Demo:
    """Return a run that has ended, made by hand: whatever its acts claim, the numbers are these."""
    played = object.__new__(Demo)
    played.scrapes = [snapshot(0.0), snapshot(1.0, **{"stopped": 1, "queue_depth": 0, "ok": 84, **last})]
    played.windows = [window(played.scrapes) for _ in ACTS]
    played.tally = Tally(accepted=100, refused={"full": 7})
    played.acknowledged, played.exit_code, played.exit_took = 84, 0, 1.6
    played.alerts = None
    played.events = EventLog(tmp_path / "service.log")
    return played


@pytest.mark.parametrize(
    ("last", "held"),
    [
        pytest.param({}, True, id="all adds up"),
        pytest.param({"submitted": 101}, False, id="one task is lost"),
    ],
)
def test_the_verdict_follows_from_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: dict[str, int], held: bool
) -> None:
    """One task that is nowhere fails the run, and the report says which numbers disagree."""
    monkeypatch.setattr(module, "check_claims", lambda *_: [])
    out = io.StringIO()
    assert print_report(Console(file=out, width=200), _played(tmp_path, **last)) is held
    assert ("FAILED submitted = completed" in out.getvalue()) is not held


class _Calm:
    """A run in which nothing happens but a log line."""

    metrics_url = "http://127.0.0.1:1/metrics"
    alerts_url = None

    def __init__(self, folder: Path, *_: object) -> None:
        (folder / module.LOG).write_text("{}\n")

    def run(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("held", [True, False], ids=["held", "not held"])
@pytest.mark.parametrize("keep", [True, False], ids=["--keep", "not kept"])
def test_the_last_line_says_where_the_log_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keep: bool,
    held: bool,
) -> None:
    """A log that is asked for or needed is kept, and it is said where; otherwise, how to keep the next."""
    monkeypatch.setattr(module, "Demo", _Calm)
    monkeypatch.setattr(module, "print_report", lambda *_: held)
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(tmp_path / "made"))
    folder = tmp_path / ("wanted" if keep else "made")
    assert main(["--keep", str(folder)] if keep else []) == (0 if held else 1)
    last = capsys.readouterr().out.splitlines()[-1]
    if keep or not held:
        assert last == f"Log and spans are kept in {folder}: service.log, spans.jsonl"
        assert (folder / "service.log").exists()
    else:
        assert 'make demo ARGS="--keep DIR"' in last
        assert not folder.exists()


@pytest.mark.once
def test_make_demo_passes_options_on() -> None:
    """What the last line and the README tell a reader to type reaches the demonstration."""
    make = shutil.which("make") or missing("make", "run: apt-get install make")
    typed = [make, "-n", "demo", "ARGS=--keep DIR"]
    done = subprocess.run(typed, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    assert "python -m examples.webhook_service --keep DIR\n" in done.stdout


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(180)
def test_all_seven_acts_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demonstration as a user runs it ends with 0, and leaves its log where it was told to."""
    status = main(["--plain", "--keep", str(tmp_path)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "All held" in printed
    rows = [
        [int(n) for n in row.split()]
        for row in re.findall(r"^(?:\d \D+|all)((?: +\d+){7,}) *$", printed, re.MULTILINE)
    ]
    assert len(rows) == 8, printed
    assert [row[0] + row[1] - sum(row[2:]) for row in rows] == [0] * 8
    assert "task.still_running in the log" in printed
    assert 'File "examples/webhook_service/delivery.py"' in printed
    if shutil.which("prometheus"):
        assert "act 5: PoolBreakerOpen fires" in printed
        assert "runbook.md#poolbreakeropen" in printed
    else:
        assert NO_PROMETHEUS in printed
    assert f"kept in {tmp_path}" in printed
    assert (tmp_path / "service.log").stat().st_size > 0
    assert (tmp_path / "spans.jsonl").stat().st_size > 0
