"""What a rule is: a recording, or an alert with all that the on-call engineer needs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import dedent
from typing import Literal

from prodpool.monitoring.formatting import SECONDS, decimal, humanize
from prodpool.monitoring.thresholds import AlertThresholds

Severity = Literal["critical", "warning", "info"]

# Seconds ahead that the trend of a queue is followed.
FILL_HORIZON = 1800.0
# Share of the capacity below which a queue has no trend worth a word.
FILL_FLOOR = 0.2
# Share of the capacity from which a queue has grown, whatever its size.
GROWN = 0.5
# Changes of a breaker between closed and not, and rebuilds of a backend, that are too many in 15 minutes.
FLAPS, REBUILDS = 6, 3
# Lost workers that are too many in 6 hours.
LOSSES = 3
# Times that all workers are started anew in 5 minutes.
CHURN = 5
# Share of the workers from which hung tasks wake somebody.
HUNG_SHARE = 0.5
# Times the threshold from which the oldest queued task wakes somebody.
DWELL_FACTOR = 10
# Offered tasks for each admitted one, and refused ones per second, from which callers try again at once.
RETRIES, REFUSALS = 3, 1
# Times yesterday's offers that are too many for everyday traffic.
OFFERED_GROWTH = 1.5
# Times yesterday's mean duration that make a slowdown; seconds below which, and tasks in 5 minutes with fewer
# than which, a mean says nothing.
SLOWDOWN, SLOWDOWN_FLOOR, SLOWDOWN_TASKS = 2, 0.01, 20
_PLACE = re.compile(r"<([a-z_]+)>")
_WINDOW = re.compile(r"(?:(?<=\[)|(?<=offset ))(\d+)([smhd])\b")


@dataclass(frozen=True, slots=True)
class PanelLink:
    """The panel that shows it: a dashboard's uid, a panel's id and title.

    ``repeated`` panels are there once for each instance, under ids that Grafana makes up.
    """

    dashboard: str
    id: int
    title: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """An expression that is evaluated once and stored under a name."""

    name: str
    expr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert.

    Attributes:
        expr: PromQL; its value is what ``description`` calls ``$value``.
        wait: Seconds for which it has to hold, before scaling; or the setting that says so.
        per_process: Whether each process has an alert of its own, with an ``instance`` label.
        per_pool: Whether each pool has one, with a ``pool`` label; what a process as a whole lacks has none.
        held_back_by: The alerts that hold this one back for the same pool, since it comes of them; for the
            same process, where all of them are of one.
        names_cause: Whether it says why something else fires. A critical alert holds back the other warnings
            of its pool.
    """

    name: str
    severity: Severity
    expr: str
    hold_for: float | Literal["drain"]
    per_process: bool
    summary: str
    description: str
    panel: PanelLink
    per_pool: bool = True
    held_back_by: tuple[str, ...] = ()
    names_cause: bool = False

    def holds_for(self, settings: AlertThresholds) -> float:
        """Return for how many seconds it has to hold."""
        return (settings.drain if self.hold_for == "drain" else self.hold_for) * settings.window_scale

    def labels(self) -> dict[str, str]:
        """Return the labels that it adds."""
        return {"component": "workerpool", "severity": self.severity}

    def annotations(self, settings: AlertThresholds) -> dict[str, str]:
        """Return the texts that the on-call engineer reads."""
        return {
            "summary": render(self.summary, settings),
            "description": self._description(settings),
            "runbook_url": f"{settings.runbook_url}#{self.name.lower()}",
            "dashboard_url": self._dashboard_url(settings),
        }

    def _description(self, settings: AlertThresholds) -> str:
        text = render(self.description, settings)
        where = ", ".join(f"{{{{ $labels.{label} }}}}" for label in settings.namespace_labels)
        job = "{{ $labels.job }}"
        return text.replace(job, f"{job} ({where})", 1) if where else text

    def panel_url(self, settings: AlertThresholds, *chosen: str) -> str:
        """Return the address of the panel, or of its dashboard where the panel has no address of its own."""
        chosen += () if self.panel.repeated else (f"viewPanel={self.panel.id}",)
        query = f"?{'&'.join(chosen)}" if chosen else ""
        return f"{settings.dashboard_url.rstrip('/')}/d/{self.panel.dashboard}{query}"

    def _dashboard_url(self, settings: AlertThresholds) -> str:
        names = [
            *settings.namespace_labels,
            "job",
            *(["instance"] if self.per_process else []),
            *(["pool"] if self.per_pool else []),
        ]
        return self.panel_url(
            settings, *(f"var-{name}={{{{ $labels.{name} | urlquery }}}}" for name in names)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """Rules that are evaluated one after the other; ``every`` so many seconds, None for Prometheus's own."""

    name: str
    rules: tuple[Record | Alert, ...]
    every: float | None = None


def render(text: str, settings: AlertThresholds, more: Mapping[str, str] | None = None) -> str:
    """Return an expression or a sentence of the table with the settings put in.

    ``<name>`` stands for a value of the settings or of ``more``, for PromQL is full of braces. Windows in
    brackets and after ``offset`` are scaled.

    Raises:
        KeyError: There is no such value.
    """
    values = {**setting_values(settings), **(more or {})}
    # Windows first: what is put in is scaled already.
    text = _WINDOW.sub(lambda found: settings.window(int(found[1]) * SECONDS[found[2]]), dedent(text).strip())
    return _PLACE.sub(lambda found: values[found[1]], text)


def setting_values(settings: AlertThresholds) -> dict[str, str]:
    """Return what `render` puts in for the names of the settings, and for what follows from them."""
    numbers = (
        *("dwell", "duration", "queue_depth", "queue_fill", "utilisation", "panic_rate", "drop_rate"),
        *("oldest_queued", "scheduling_delay", "descriptors"),
    )
    return {
        **{name: decimal(getattr(settings, name)) for name in numbers},
        "service": settings.service,
        "process": settings.process,
        "whole_process": settings.whole_process,
        "stall": settings.window(settings.stall),
        "stall_spoken": humanize(settings.stall * settings.window_scale),
        "dwell_le": repr(float(settings.dwell)),  # as the histogram's label has it
        "dwell_spoken": humanize(settings.dwell),
        "duration_spoken": humanize(settings.duration),
        "fill_horizon": decimal(FILL_HORIZON * settings.window_scale),
        "fill_floor": decimal(FILL_FLOOR),
        "grown": decimal(GROWN),
        "flaps": str(FLAPS),
        "rebuilds": str(REBUILDS),
        "losses": str(LOSSES),
        "churn": str(CHURN),
        "hung_share": decimal(HUNG_SHARE),
        "oldest_queued_spoken": humanize(settings.oldest_queued),
        "oldest_queued_critical": decimal(DWELL_FACTOR * settings.oldest_queued),
        "oldest_queued_critical_spoken": humanize(DWELL_FACTOR * settings.oldest_queued),
        "retries": str(RETRIES),
        "refusals": str(REFUSALS),
        "offered_growth": decimal(OFFERED_GROWTH),
        "slowdown": str(SLOWDOWN),
        "slowdown_floor": decimal(SLOWDOWN_FLOOR),
        "slowdown_tasks": str(SLOWDOWN_TASKS),
        "scheduling_delay_spoken": f"{decimal(settings.scheduling_delay * 1000)} ms",
        "descriptors_percent": f"{decimal(round(settings.descriptors * 100, 6))} %",
        "queue_fill_percent": f"{decimal(round(settings.queue_fill * 100, 6))} %",
        "utilisation_percent": f"{decimal(round(settings.utilisation * 100, 6))} %",
        "slo_percent": f"{decimal(round(settings.slo * 100, 6))} %",
        "min_tasks": str(settings.slo_min_tasks),
        "budget": decimal(settings.budget),
        "budget_percent": f"{decimal(settings.budget * 100)} %",
    }
