"""Clients of a service over `busy_pool`, who ask more of it than it can do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3

from tests.helpers.waiting import until
from tests.services.gunicorn_server import gunicorn

WORKERS, ROOM = 2, 3
Ask = Callable[[str], urllib3.BaseHTTPResponse]


def statuses(answers: Iterable[urllib3.BaseHTTPResponse]) -> Counter[int]:
    """Count the answers by status; the refusals have all that they should."""
    found: Counter[int] = Counter()
    for answer in answers:
        found[answer.status] += 1
        if answer.status == 429:
            assert answer.headers["Content-Type"] == "application/json"
            assert json.loads(answer.data)["reason"] == "full"
            assert int(answer.headers["Retry-After"]) == json.loads(answer.data)["retry_after"] >= 1
    return found


def crowd(ask: Ask, path: str, requests: int) -> Counter[int]:
    """Have eight clients make so many requests; return how many got which status."""
    with ThreadPoolExecutor(8) as clients:
        return statuses(clients.map(ask, [path] * requests))


def check_refusals(ask: Ask, done: Path, processes: int) -> int:
    """Ask for more than there is room for, with 202 and 429 as the only answers.

    Returns:
        How many tasks were accepted, of which some are done only when the service ends.
    """
    assert ask("bug").status == 500
    quick = crowd(ask, "quick", 200)
    assert set(quick) <= {202, 429}, quick
    assert quick[202] >= ROOM
    until(lambda: len(list(done.iterdir())) == quick[202])
    waiting = crowd(ask, "waiting", 40)
    assert set(waiting) == {202, 429}, waiting
    assert ROOM <= waiting[202] <= processes * ROOM
    return quick[202] + waiting[202]


def check_under_gunicorn(folder: Path, application: str, *options: str) -> None:
    """Clients get 202 and 429 and nothing else, and every task that was accepted is done when it ends."""
    done = folder / "done"
    done.mkdir()
    with gunicorn(folder, application, *options, workers=WORKERS, DONE=str(done)) as server:
        accepted = check_refusals(server.request, done, WORKERS)
    assert len(list(done.iterdir())) == accepted, server.log()
