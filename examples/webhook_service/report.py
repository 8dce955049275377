"""Judging a run from its scrapes alone: what happened between two of them, and whether all of it adds up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .scrape import AFTER_ADMISSION, Snapshot
from .traffic import Tally


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between the first and the last of some scrapes.

    Times are seconds; ``None`` where nothing was observed. ``breaker`` lists the states seen, without
    repetition in a row. In flight is queued and running together. ``max_...`` are the greatest values that a
    scrape happened to see, ``last_depth`` is what the last one saw.
    """

    seconds: float
    offered: int
    submitted: int
    completed: Mapping[str, int]
    dropped: Mapping[str, int]
    in_flight_before: int
    in_flight_after: int
    dwell_p50: float | None
    dwell_p95: float | None
    duration_p50: float | None
    duration_p95: float | None
    max_depth: int
    last_depth: int
    max_busy: int
    max_hung: int
    max_longest: float
    breaker: tuple[str, ...]

    @property
    def failed(self) -> int:
        """Tasks that failed; one that was cancelled, or raised what is expected, did not."""
        return sum(self.completed.get(result, 0) for result in ("error", "panic", "timeout"))


def _grown(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    return {label: value - then.get(label, 0) for label, value in now.items()}


def window(scrapes: Sequence[Snapshot]) -> Window:
    """Summarise two or more scrapes, oldest first."""
    if len(scrapes) < 2:
        raise ValueError(f"a window needs two scrapes and got {len(scrapes)}")
    first, last = scrapes[0], scrapes[-1]
    dwell, duration = last.dwell.since(first.dwell), last.duration.since(first.duration)
    states = [scrape.breaker for scrape in scrapes]
    return Window(
        seconds=last.at - first.at,
        offered=last.offered - first.offered,
        submitted=last.submitted - first.submitted,
        completed=_grown(last.completed, first.completed),
        dropped=_grown(last.dropped, first.dropped),
        in_flight_before=first.queue_depth + first.workers_busy,
        in_flight_after=last.queue_depth + last.workers_busy,
        dwell_p50=dwell.quantile(0.5),
        dwell_p95=dwell.quantile(0.95),
        duration_p50=duration.quantile(0.5),
        duration_p95=duration.quantile(0.95),
        max_depth=max(scrape.queue_depth for scrape in scrapes),
        last_depth=last.queue_depth,
        max_busy=max(scrape.workers_busy for scrape in scrapes),
        max_hung=max(scrape.hung for scrape in scrapes),
        max_longest=max(scrape.longest_running for scrape in scrapes),
        breaker=tuple(state for n, state in enumerate(states) if n == 0 or states[n - 1] != state),
    )


def broken_law(scrape: Snapshot) -> str | None:
    """Say how the conservation law fails in one scrape; None when it holds.

    The law: submitted = completed + dropped after admission + queued + running.
    """
    finished = sum(scrape.completed.values())
    dropped = sum(scrape.dropped.get(reason, 0) for reason in AFTER_ADMISSION)
    accounted = finished + dropped + scrape.queue_depth + scrape.workers_busy
    if accounted == scrape.submitted:
        return None
    return (
        f"submitted {scrape.submitted}, but completed {finished} + dropped {dropped}"
        f" + queued {scrape.queue_depth} + running {scrape.workers_busy} = {accounted}"
    )


def went_back(scrapes: Sequence[Snapshot]) -> str | None:
    """Say which counter fell between two scrapes; None when none did."""
    for before, after in pairwise(scrapes):
        for name, then, now in _counters(before, after):
            if now < then:
                return f"{name} fell from {then:g} to {now:g}"
    return None


def _counters(before: Snapshot, after: Snapshot) -> list[tuple[str, float, float]]:
    pairs: list[tuple[str, float, float]] = [("submitted", before.submitted, after.submitted)]
    for result, then in before.completed.items():
        pairs.append((f"completed {result}", then, after.completed.get(result, 0)))
    for reason, then in before.dropped.items():
        pairs.append((f"dropped {reason}", then, after.dropped.get(reason, 0)))
    return pairs


@dataclass(frozen=True, slots=True)
class Check:
    """One statement about the run, and whether it held."""

    statement: str
    held: bool
    evidence: str


def check_scrapes(scrapes: Sequence[Snapshot]) -> list[Check]:
    """Judge what must hold in every scrape, and from each to the next."""
    broken = [why for scrape in scrapes if (why := broken_law(scrape)) is not None]
    over = [s for s in scrapes if s.queue_depth > s.queue_capacity or s.workers_busy > s.workers]
    back = went_back(scrapes)
    return [
        Check(
            "submitted = completed + expired + cancelled + shutdown + queued + running, in every scrape",
            bool(scrapes) and not broken,
            broken[0] if broken else f"{len(scrapes)} scrapes",
        ),
        Check(
            "never more waiting than the queue's capacity, nor more running than workers",
            bool(scrapes) and not over,
            f"{over[0].queue_depth} waiting, {over[0].workers_busy} running"
            if over
            else f"{len(scrapes)} scrapes",
        ),
        Check("no counter ever fell", back is None, back or f"{len(scrapes)} scrapes"),
    ]


def check_end(last: Snapshot, seen: Tally, acknowledged: int, exit_code: int | None) -> list[Check]:
    """Judge the last scrape against what both ends counted themselves, and how the service ended.

    Args:
        last: The last scrape.
        seen: The senders' counts.
        acknowledged: Webhooks that the customers answered with 200. They may be more than the pool counted as
            ok: a delivery that the service gave up on, or was still at when it ended, may have arrived.
        exit_code: Of the service.
    """
    ok, unsure = last.completed.get("ok", 0), last.completed.get("error", 0) + last.workers_busy
    refused = sum(seen.refused.values())
    pool_refused = last.offered - last.submitted
    unknown = f", {seen.cut} answers lost" if seen.cut else ""
    return [
        Check(
            "202 answers that the senders counted = tasks that the pool counted as submitted",
            seen.accepted <= last.submitted <= seen.accepted + seen.cut,
            f"senders {seen.accepted}, pool {last.submitted}{unknown}",
        ),
        Check(
            "429 and 503 answers that the senders counted = tasks that the pool counted as refused",
            refused <= pool_refused <= refused + seen.cut,
            f"senders {refused}, pool {pool_refused}{unknown}",
        ),
        Check(
            "answers that the senders counted = tasks that the pool counted as offered",
            seen.offered <= last.offered <= seen.offered + seen.cut,
            f"senders {seen.offered}, pool {last.offered}{unknown}",
        ),
        Check(
            "webhooks that the customers acknowledged = deliveries that the pool counted as ok",
            ok <= acknowledged <= ok + unsure,
            f"customers {acknowledged}, pool {ok}, {last.workers_busy} still running at the end",
        ),
        Check(
            "senders of the burst, who wait as Retry-After says, had every webhook accepted in the end",
            seen.exhausted == 0,
            f"by their own count: {seen.waited} waits, {seen.exhausted} given up",
        ),
        Check(
            "the last scrape shows a stopped pool with nothing waiting",
            last.stopped and last.queue_depth == 0,
            f"stopped {last.stopped}, queued {last.queue_depth}, running {last.workers_busy}",
        ),
        Check("the service exited with 0 after SIGTERM", exit_code == 0, f"exit status {exit_code}"),
    ]


Claim = tuple[str, Callable[[Window], bool], Callable[[Window], str]]


def check_claims(title: str, claims: Sequence[Claim], seen: Window) -> list[Check]:
    """Judge what an act claims to show against what its scrapes say."""
    return [
        Check(f"{title}: {statement}", test(seen), evidence(seen)) for statement, test, evidence in claims
    ]
