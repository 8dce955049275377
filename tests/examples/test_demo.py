from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from examples.webhook_service import demo as module
from examples.webhook_service.acts import ACTS
from examples.webhook_service.demo import Demo, main, print_report
from examples.webhook_service.events import EventLog
from examples.webhook_service.report import window
from examples.webhook_service.traffic import Tally
from tests.examples.exposition import snapshot


def _played(tmp_path: Path, **last: int) -> Demo:
    """Return a run that has ended, made by hand: whatever its acts claim, the numbers are these."""
    played = object.__new__(Demo)
    played.scrapes = [snapshot(0.0), snapshot(1.0, **{"stopped": 1, "queue_depth": 0, "ok": 84, **last})]
    played.windows = [window(played.scrapes) for _ in ACTS]
    played.tally = Tally(accepted=100, refused={"full": 7})
    played.acknowledged, played.exit_code, played.exit_took = 84, 0, 1.6
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


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(180)
def test_all_seven_acts_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demonstration as a user runs it ends with 0, and leaves its log where it was told to."""
    status = main(["--plain", "--keep", str(tmp_path)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "All held" in printed
    assert (tmp_path / "service.log").stat().st_size > 0
    assert (tmp_path / "spans.jsonl").stat().st_size > 0
