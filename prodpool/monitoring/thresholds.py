"""The thresholds and names that may be chosen when the rules are exported, each with its check."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Any

from prodpool.config.settings import DEFAULT_BUCKETS, check_name
from prodpool.monitoring.formatting import decimal, duration

# Burn rate of the fastest window; times the budget it has to be a share below 1, or it could never be seen.
FASTEST_BURN = 14.4
# Prometheus's shortest window is a millisecond; nothing here is shorter than a minute.
LEAST_SCALE = 0.001
# Prometheus keeps what begins with two underscores to itself.
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
# What the rules themselves put on an alert, or group by; what the metrics have; the dashboards' variables.
_TAKEN = {
    "alertname",
    "alertstate",
    "backend",
    "component",
    "datasource",
    "instance",
    "job",
    "le",
    "pool",
    "reason",
    "result",
    "runbook",
    "severity",
    "sink",
    "slo",
    "state",
    "version",
}
# What can only be the same for all pools; each other setting may be another for one of them.
_OF_PROCESSES = {"scheduling_delay", "descriptors"}
_COMMON = {
    *_OF_PROCESSES, "buckets", "runbook_url", "dashboard_url", "namespace_label", "window_scale", "pools",
}  # fmt: skip


class SettingError(ValueError):
    """Raised when a threshold cannot work; the message names the option, its value and the way out."""


def _setting(default: Any, text: str, kind: Callable[[str], Any] = float, metavar: str = "N") -> Any:
    return field(default=default, metadata={"help": text, "kind": kind, "metavar": metavar})


def bounds(text: str) -> tuple[float, ...]:
    """Read the bounds of histogram buckets in seconds, separated by commas."""
    return tuple(float(part) for part in text.split(","))


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertThresholds:
    """What rules, runbook and dashboards are written with; the defaults are those of the committed files.

    Raises:
        SettingError: A value could only make a rule that never fires, always fires or does not parse.
    """

    slo: float = _setting(0.995, "share of the tasks that are to end well, over 30 days")
    slo_min_tasks: int = _setting(
        100, "tasks that must have ended in the longer window before a burn rate is believed", int
    )
    dwell: float = _setting(
        30.0, "seconds in the queue that the 95th percentile may reach", metavar="SECONDS"
    )
    oldest_queued: float = _setting(
        30.0,
        "seconds that the oldest queued task may have waited; ten times that wakes somebody",
        metavar="SECONDS",
    )
    duration: float = _setting(
        5.0, "seconds of running that the 99th percentile may reach", metavar="SECONDS"
    )
    queue_depth: float = _setting(1000, "tasks that may wait in one instance", metavar="TASKS")
    queue_fill: float = _setting(0.8, "share of the queue's capacity that may be taken", metavar="SHARE")
    utilisation: float = _setting(
        0.95, "share of the workers' time that may be spent in tasks", metavar="SHARE"
    )
    scheduling_delay: float = _setting(
        0.02, "seconds that a process may be late in waking up a thread, on average", metavar="SECONDS"
    )
    descriptors: float = _setting(
        0.8, "share of the file descriptors of a process that may be open", metavar="SHARE"
    )
    panic_rate: float = _setting(0.1, "panics per second", metavar="RATE")
    drop_rate: float = _setting(0.0, "dropped tasks per second", metavar="RATE")
    stall: float = _setting(
        300.0,
        "seconds without a finished task that are normal; above that of the longest task",
        metavar="SECONDS",
    )
    drain: float = _setting(
        60.0,
        "seconds that a deployment's drain may take; not below the pools' drain_deadline",
        metavar="SECONDS",
    )
    buckets: tuple[float, ...] = _setting(
        DEFAULT_BUCKETS, "bounds of the pools' histograms, if they are not the default", bounds, "SECONDS,..."
    )
    runbook_url: str = _setting("runbook.md", "address at which you publish the runbook", str, "URL")
    dashboard_url: str = _setting("", "address of your Grafana, such as https://grafana.example", str, "URL")
    namespace_label: str = _setting(
        "",
        "one more label to keep apart by, such as namespace; several: once for each, the widest first",
        str,
        "NAME",
    )
    window_scale: float = _setting(
        1.0, "factor on every window and waiting time, for trying the rules out; not for production"
    )
    # Not an option of its own: --pool and --pools are read by pool_thresholds.py.
    pools: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("slo", "queue_fill", "utilisation", "descriptors"):
            self._require(name, 0 < getattr(self, name) < 1, "pass a share between 0 and 1, such as 0.9")
        burn = Decimal(str(FASTEST_BURN)) * self.budget
        self._require(
            "slo",
            burn < 1,
            f"{FASTEST_BURN} times the budget would be {decimal(burn)}, more than all tasks, so that no fast "
            "burn could ever be seen: pass 0.94 or more",
        )
        for name in ("slo_min_tasks", "queue_depth"):
            self._require(name, 1 <= getattr(self, name) < math.inf, "pass a number of 1 or more")
        for name in ("panic_rate", "drop_rate"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "pass a rate per second of 0 or more")
        self._require("oldest_queued", 0 < self.oldest_queued < math.inf, "pass a number of seconds above 0")
        self._require(
            "scheduling_delay", 0 < self.scheduling_delay < math.inf, "pass a number of seconds above 0"
        )
        for name in ("stall", "drain"):
            self._require(name, 1 <= getattr(self, name) < math.inf, "pass a number of seconds of 1 or more")
        self._require("window_scale", LEAST_SCALE <= self.window_scale <= 1, "pass a factor from 0.001 to 1")
        self._check_buckets()
        self._check_names()
        self._check_pools()

    def _check_buckets(self) -> None:
        self._require(
            "buckets",
            len(self.buckets) > 1
            and list(self.buckets) == sorted(set(self.buckets))
            and 0 < self.buckets[0] < self.buckets[-1] < math.inf,
            "pass two or more rising numbers of seconds, separated by commas",
        )
        usable = ", ".join(decimal(bound) for bound in self.buckets[:-1])
        for name in ("dwell", "duration"):
            self._require(
                name,
                getattr(self, name) in self.buckets[:-1],
                "a quantile is told apart only at the bounds of the histogram's buckets: pass one of "
                f"{usable}; or say with --buckets which bounds your pools were given",
            )

    def _check_names(self) -> None:
        labels = self.namespace_labels
        for label in labels:
            self._require(
                "namespace_label", bool(_LABEL.fullmatch(label)), "pass a label name, such as namespace"
            )
            self._require(
                "namespace_label", label not in _TAKEN, "the rules use that label already: pass another"
            )
        self._require("namespace_label", len(set(labels)) == len(labels), "pass each label once")
        for name in ("runbook_url", "dashboard_url"):
            text = getattr(self, name)
            unfit = re.search(r"[\s\"'<>\\{}]", text)
            self._require(name, not unfit, "pass an address without blanks, quotes, braces or angle brackets")
            self._require(
                name, "#" not in text and "?" not in text, "leave out what begins with # or ?: it is added"
            )
        self._require(
            "runbook_url", bool(self.runbook_url), "pass the address at which the runbook can be read"
        )

    def _check_pools(self) -> None:
        for pool, own in self.pools.items():
            try:
                check_name(pool)
            except (TypeError, ValueError) as error:
                raise SettingError(f"--pool {pool}: {error}") from None
            for name in own:
                if name not in PER_POOL:
                    raise SettingError(f"--pool {pool}:{name}: {only_per_pool()}")
            try:
                self.of_pool(pool)
            except SettingError as error:  # "--dwell 20: ..." is told as "--pool mail:dwell=20: ..."
                told = str(error).removeprefix("--").replace(" ", "=", 1)
                raise SettingError(f"--pool {pool}:{told}") from None

    def of_pool(self, pool: str) -> AlertThresholds:
        """Return what the rules of one pool are written with, as if all pools were like it."""
        own: Mapping[str, Any] = self.pools.get(pool, {})
        return replace(self, pools={}, **own)

    def _require(self, name: str, fits: bool, way_out: str) -> None:
        if not fits:
            value = getattr(self, name)
            shown = ",".join(map(decimal, value)) if isinstance(value, tuple) else value
            raise SettingError(f"--{name.replace('_', '-')} {shown}: {way_out}")

    @property
    def budget(self) -> Decimal:
        """The share of the tasks that may end badly."""
        return 1 - Decimal(str(self.slo))

    @property
    def namespace_labels(self) -> tuple[str, ...]:
        """The further labels to keep apart by, the widest first."""
        return tuple(self.namespace_label.split(",")) if self.namespace_label else ()

    @property
    def service(self) -> str:
        """The labels that tell one pool of one service from another."""
        return ", ".join([*self.namespace_labels, "job", "pool"])

    @property
    def process(self) -> str:
        """The labels that tell one pool of one process from another."""
        return ", ".join([*self.namespace_labels, "job", "instance", "pool"])

    @property
    def whole_process(self) -> str:
        """The labels that tell one process from another, whatever pools it has."""
        return self.process.removesuffix(", pool")

    def window(self, seconds: float) -> str:
        """Write a window or a waiting time, scaled, as PromQL has it."""
        return duration(seconds * self.window_scale)


PER_POOL = tuple(each.name for each in fields(AlertThresholds) if each.name not in _COMMON)


def only_per_pool() -> str:
    """Return what a pool may have a value of its own for, as a sentence."""
    return f"a pool may have a value of its own for {', '.join(PER_POOL)}"


def options() -> list[tuple[str, Any, Callable[[str], Any], str, str]]:
    """Return name, default, type, placeholder and help of every setting, for a command line."""
    return [
        (each.name, each.default, each.metadata["kind"], each.metadata["metavar"], each.metadata["help"])
        for each in fields(AlertThresholds)
        if each.metadata
    ]
