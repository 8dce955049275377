"""The error budget: recorded ratios, and an alert for each pair of windows.

A task ends badly when it fails or is lost. One that its own caller cancelled, or offered to a pool that was
told to stop, is no failure of the pool. Parts of a sum are joined by ``or``: with ``+`` a missing series
would make the whole sum vanish.
Source: Google, The Site Reliability Workbook, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts"
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from prodpool.monitoring.formatting import SECONDS, decimal, humanize
from prodpool.monitoring.model import Alert, Group, PanelLink, Record, Severity
from prodpool.monitoring.thresholds import FASTEST_BURN, AlertThresholds

BURN_PANEL = PanelLink("prodpool-pool", 52, "Error budget burn, worst pool")
_FEW_DAYS = 3
_BAD = """
sum by (<service>) (
  rate(workerpool_completed_total{result=~"error|panic|timeout"}[WINDOW])
  or rate(workerpool_dropped_total{reason!~"cancelled|closed"}[WINDOW])
)
/
(
  sum by (<service>) (
    rate(workerpool_completed_total[WINDOW])
    or rate(workerpool_dropped_total{reason!~"cancelled|closed"}[WINDOW])
  ) > 0
)
"""
_ENDED = """
sum by (<service>) (
  increase(workerpool_completed_total[WINDOW])
  or increase(workerpool_dropped_total{reason!~"cancelled|closed"}[WINDOW])
)
"""


@dataclass(frozen=True, slots=True)
class BurnRate:
    """A burn rate seen over a long window, and over a short one so that it ends soon after its cause."""

    factor: float
    long: str
    short: str
    severity: Severity
    wait: float

    @property
    def name(self) -> str:
        """The alert's name."""
        return f"PoolErrorBudgetBurn{self.long}"

    def pace(self) -> str:
        """Say how fast that is."""
        return (
            f"its error budget {decimal(self.factor)} times too fast"
            if self.factor > 1
            else "all of its error budget"
        )

    def spent(self) -> str:
        """Say how soon the budget of 30 days is spent at this pace."""
        days = 30 / self.factor
        return f"{round(days)} days" if days > _FEW_DAYS else f"{round(days * 24)} hours"

    def long_spoken(self) -> str:
        """Say how long the longer window is: ``hour``, ``6 hours``."""
        return humanize(int(self.long[:-1]) * SECONDS[self.long[-1]]).removeprefix("1 ")

    def threshold(self, settings: AlertThresholds) -> str:
        """Return the share of the tasks that ends badly at this pace."""
        return decimal(Decimal(str(self.factor)) * settings.budget)


BURNS = (
    BurnRate(FASTEST_BURN, "1h", "5m", "critical", 120.0),
    BurnRate(6.0, "6h", "30m", "critical", 900.0),
    BurnRate(3.0, "1d", "2h", "warning", 3600.0),
    BurnRate(1.0, "3d", "6h", "warning", 10_800.0),
)


def budget_groups() -> tuple[Group, Group]:
    """Return the rules of the fast windows and, evaluated less often, those of the slow ones."""
    ratios = [_ratio(window) for window in ("5m", "30m", "1h", "6h")]
    slow_ratios = [_ratio(window) for window in ("2h", "1d", "3d")]
    alerts = [_alert(burn) for burn in BURNS]
    return (
        Group("prodpool-budget", (*ratios, _ended("1h"), _ended("6h"), *alerts[:2])),
        Group("prodpool-budget-slow", (*slow_ratios, _ended("1d"), _ended("3d"), *alerts[2:]), every=120.0),
    )


def _ratio(window: str) -> Record:
    return Record(f"pool:workerpool_bad:ratio_rate{window}", _BAD.replace("WINDOW", window))


def _ended(window: str) -> Record:
    return Record(f"pool:workerpool_ended:increase{window}", _ENDED.replace("WINDOW", window))


def _alert(burn: BurnRate) -> Alert:
    return Alert(
        name=burn.name,
        severity=burn.severity,
        expr=f"""
            pool:workerpool_bad:ratio_rate{burn.long} > {decimal(burn.factor)} * <budget>
            and
            pool:workerpool_bad:ratio_rate{burn.short} > {decimal(burn.factor)} * <budget>
            and
            pool:workerpool_ended:increase{burn.long} >= <min_tasks>
        """,
        hold_for=burn.wait,
        per_process=False,
        summary=f"Pool {{{{ $labels.pool }}}} spends {burn.pace()}",
        description=(
            "{{ $value | humanizePercentage }} of what pool {{ $labels.pool }} of {{ $labels.job }} was "
            f"given in the last {burn.long_spoken()} failed or was lost; <budget_percent> may."
        ),
        panel=BURN_PANEL,
        held_back_by=() if burn.factor == FASTEST_BURN else (BURNS[0].name,),
    )
