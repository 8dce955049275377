"""The play: seven acts, each one incident, with what to watch in it and what its metrics must show.

A claim is judged from the scrapes of its act alone. Loads are chosen so that each act shows its effect by
arithmetic (8 workers, 32 places) and not by the speed of the machine; the numbers are in the README.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from .processes import CUSTOMERS, Customers, ServiceProcess
from .report import Claim, Window
from .traffic import Traffic

WORKERS = 8
CAPACITY = 32
STEADY = 60.0  # webhooks per second
DELIVERY_TIMEOUT = 2.0
HUNG_AFTER = 1.0
BREAKER_OPEN_FOR = 2.0
DRAIN_DEADLINE = 1.5


@dataclass(frozen=True, slots=True)
class Stage:
    """What an act can move."""

    customers: Customers
    service: ServiceProcess
    traffic: Traffic


Step = tuple[float, Callable[[Stage], None]]


@dataclass(frozen=True, slots=True)
class Act:
    """One incident.

    Attributes:
        title: A few words.
        watch: One sentence for the operator in front of the screen.
        seconds: How long it lasts; the last act ends with the service instead.
        steps: What happens when, in seconds from the act's beginning.
        claims: What its scrapes must show.
        alerts: Alerts that must fire in it, with seconds to spare on a slow machine. Others may.
        recovers: Alerts that must be over at its end.
        quiet: No alert may fire in it.
        ends_service: The act ends when the service has ended.
    """

    title: str
    watch: str
    seconds: float
    steps: tuple[Step, ...]
    claims: tuple[Claim, ...]
    alerts: tuple[str, ...] = ()
    recovers: tuple[str, ...] = ()
    quiet: bool = False
    ends_service: bool = False


def _load(rate: float, stage: Stage) -> None:
    stage.traffic.load(rate, CUSTOMERS)


def _all(mode: str, seconds: float, stage: Stage) -> None:
    stage.customers.behave(mode, seconds)


def _one(customer: str, mode: str, seconds: float, stage: Stage) -> None:
    stage.customers.behave(mode, seconds, customer)


def _burst(customer: str, count: int, stage: Stage) -> None:
    stage.traffic.burst(customer, count, patience=8)


def _terminate(stage: Stage) -> None:
    stage.service.terminate()


def _of(counts: str, label: str, seen: Window) -> str:
    table: Mapping[str, int] = getattr(seen, counts)
    return f"{table.get(label, 0)} of {seen.offered} offered"


def _some(statement: str, counts: str, label: str) -> Claim:
    return statement, lambda seen: getattr(seen, counts).get(label, 0) > 0, partial(_of, counts, label)


def _none(statement: str, counts: str, label: str) -> Claim:
    return statement, lambda seen: getattr(seen, counts).get(label, 0) == 0, partial(_of, counts, label)


def _breaker(seen: Window) -> str:
    return ", then ".join(seen.breaker)


def _dwell(seen: Window) -> str:
    return "no task started" if seen.dwell_p95 is None else f"p95 {seen.dwell_p95 * 1000:.0f} ms"


STAYS_CLOSED: Claim = ("the breaker stays closed", lambda seen: seen.breaker == ("closed",), _breaker)
QUEUE_EMPTIES: Claim = (
    "the queue is short again at the end",
    lambda seen: seen.last_depth <= CAPACITY // 4,
    lambda seen: f"depth {seen.max_depth} at most, {seen.last_depth} at the end",
)

ACTS = (
    Act(
        "Steady load",
        f"{STEADY:.0f} webhooks a second, every customer answers: short queue, no refusals. "
        "This is what calm looks like.",
        9.0,  # Prometheus makes its first scrape five seconds after its start; it is to see some of the calm
        ((0.0, partial(_all, "healthy", 0.008)), (0.0, partial(_load, STEADY))),
        (
            _some("webhooks are delivered", "completed", "ok"),
            _none("nothing fails", "completed", "error"),
            _none("nothing is refused", "dropped", "full"),
            STAYS_CLOSED,
        ),
        quiet=True,
    ),
    Act(
        "A customer hangs",
        "One customer in four accepts and never answers: workers pile up on it, each hung one's stack is "
        "logged, the rest is refused (429), not heaped up. The delivery timeout frees the workers.",
        12.0,
        ((0.0, partial(_one, "initech", "hanging", 0.0)), (7.0, partial(_one, "initech", "healthy", 0.008))),
        (
            (
                "every worker is taken",
                lambda seen: seen.max_busy == WORKERS,
                lambda seen: f"{seen.max_busy} busy",
            ),
            (
                "hung deliveries are seen while they run",
                lambda seen: seen.max_hung > 0,
                lambda s: f"up to {s.max_hung}",
            ),
            _some("the queue is full, senders are refused", "dropped", "full"),
            _some("the timeout ends hung deliveries", "completed", "error"),
            QUEUE_EMPTIES,
            STAYS_CLOSED,
        ),
        alerts=("PoolDropping", "PoolErrorBudgetBurn1h"),
    ),
    Act(
        "Slow downstream",
        "One customer in four now takes 560 ms. Nothing fails; workers are just longer busy, so the time "
        "webhooks wait (dwell) rises second by second, long before the first one is refused.",
        9.0,
        ((0.0, partial(_one, "globex", "slow", 0.56)), (7.0, partial(_one, "globex", "healthy", 0.008))),
        (
            (
                "dwell rises above 100 ms",
                lambda seen: seen.dwell_p95 is not None and seen.dwell_p95 > 0.1,
                _dwell,
            ),
            _none("nothing fails", "completed", "error"),
            QUEUE_EMPTIES,
        ),
        alerts=("PoolSlowTasks",),
    ),
    Act(
        "Burst over capacity",
        "240 webhooks for one customer at once: what does not fit is told 429 and when to come back; these "
        "senders do as they are told, and everything arrives.",
        9.0,
        (
            (0.0, partial(_one, "hooli", "bursting", 0.1)),
            (0.0, partial(_load, STEADY / 2)),
            (1.0, partial(_burst, "hooli", 240)),
            (8.0, partial(_one, "hooli", "healthy", 0.008)),
        ),
        (
            (
                # Scrapes are samples: between two of them a worker may have taken the one that fills it. That
                # it was full is what the refusals say.
                "the queue fills up and stays within its capacity",
                lambda seen: CAPACITY * 3 // 4 <= seen.max_depth <= CAPACITY,
                lambda seen: f"{seen.max_depth} of {CAPACITY}",
            ),
            _some("senders beyond it are refused", "dropped", "full"),
            _none("nothing fails", "completed", "error"),
            QUEUE_EMPTIES,
        ),
    ),
    Act(
        "The downstream fails",
        "Every customer answers 500: after a window of failures the breaker opens, and webhooks are refused "
        f"at once (503) rather than sent to fail; every {BREAKER_OPEN_FOR:.0f} s it lets probes through.",
        8.0,
        ((0.0, partial(_load, STEADY)), (0.0, partial(_all, "failing", 0.008))),
        (
            _some("deliveries fail", "completed", "error"),
            ("the breaker opens", lambda seen: "open" in seen.breaker, _breaker),
            _some("webhooks are refused at once", "dropped", "breaker_open"),
        ),
        alerts=("PoolBreakerOpen", "PoolErrorBudgetBurn1h"),
    ),
    Act(
        "Recovery",
        "The customers answer again: the next probes succeed, the breaker goes from half-open to closed by "
        "itself, and deliveries go on.",
        6.0,
        ((0.0, partial(_all, "healthy", 0.008)),),
        (
            ("the breaker closes by itself", lambda seen: seen.breaker[-1] == "closed", _breaker),
            _some("webhooks are delivered again", "completed", "ok"),
        ),
    ),
    Act(
        "SIGTERM, work queued",
        "Deliveries take 500 ms and the queue is full when SIGTERM comes: the intake closes, workers go on "
        f"for {DRAIN_DEADLINE} s, what is still queued then is dropped, and counted.",
        8.0,
        (
            (0.0, partial(_all, "slow", 0.5)),
            (2.5, _terminate),
            (3.0, partial(_load, 0.0)),
        ),
        (
            _some("the drain finishes deliveries", "completed", "ok"),
            _some("what is left at the deadline is dropped, and counted", "dropped", "shutdown"),
            (
                "nothing is left waiting",
                lambda seen: seen.last_depth == 0,
                lambda seen: f"{seen.last_depth} waiting",
            ),
        ),
        recovers=("PoolBreakerOpen",),
        ends_service=True,
    ),
)
