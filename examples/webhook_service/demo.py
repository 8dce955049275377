"""Play the seven acts, watch them through ``/metrics``, and judge them by it.

The exit status is 0 only if the conservation law held in every scrape, the senders' own counts agree with the
metrics, every act showed what it claims to, the service ended in time, and, where there is a Prometheus, the
alerts that an act has to set off did fire.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from textwrap import fill

from rich.console import Console

from . import acts as play
from .acts import ACTS, Act, Stage
from .alerts import SETTINGS, AlertStory, check_alerts, read
from .arguments import output_folder
from .closing import account, account_notes, alert_notes, alerts_fired, hung_sample, measures, senders_say
from .events import EventLog
from .live import LiveView
from .processes import CUSTOMERS, ChildError, Customers, ServiceProcess
from .prometheus import Prometheus, installed
from .report import Check, Window, broken_law, check_claims, check_end, check_scrapes, window
from .scrape import ScrapeError, Scraper, Snapshot
from .screen import Moment, PlainView, View
from .traffic import Tally, Traffic

POOL_NAME = "webhook_delivery"
LOG, SPANS = "service.log", "spans.jsonl"
TICK = 0.25
# The drain is short, and the last scrape of all is the one that counts.
DRAIN_TICK = 0.08


class Demo:
    """One run: the children, the senders, and everything scraped."""

    def __init__(self, folder: Path, view: View) -> None:
        """Start the processes; nothing is sent yet."""
        self._cleanup = ExitStack()
        self._view = view
        self.events = EventLog(folder / LOG)
        try:
            customers = Customers()
            self._cleanup.callback(customers.close)
            self._service = ServiceProcess(customers, *_service_options(folder))
            self._cleanup.callback(self._service.close)
            self._prometheus = self._watched() if installed() else None
        except BaseException:
            self._cleanup.close()
            raise
        self._traffic = Traffic(self._service.url())
        self._stage = Stage(customers, self._service, self._traffic)
        self._scraper = Scraper(self._service.metrics_url, POOL_NAME)
        self._began = 0.0
        self._broken: str | None = None
        self.scrapes: list[Snapshot] = []
        self.windows: list[Window] = []
        self.tally = Tally()
        self.acknowledged = 0
        self.exit_code: int | None = None
        self.exit_took = 0.0
        self.alerts: AlertStory | None = None

    def _watched(self) -> Prometheus:
        target = self._service.metrics_url.removeprefix("http://").removesuffix("/metrics")
        prometheus = Prometheus(target, SETTINGS)
        self._cleanup.callback(prometheus.close)
        return prometheus

    @property
    def metrics_url(self) -> str:
        """Where to point a browser or a Prometheus meanwhile."""
        return self._service.metrics_url

    @property
    def alerts_url(self) -> str | None:
        """Where to watch the alerts; None if there is no Prometheus to evaluate them."""
        return None if self._prometheus is None else f"{self._prometheus.url}/alerts"

    def close(self) -> None:
        """End whatever still runs."""
        self._traffic.stop(timeout=1.0)
        self._cleanup.close()

    def run(self) -> None:
        """Play all acts."""
        self._traffic.start()
        self._began = time.monotonic()
        if not self._scrape():
            raise ChildError("the service does not answer on /metrics")
        played: list[tuple[float, float]] = []
        for number, act in enumerate(ACTS, start=1):
            first, began = len(self.scrapes) - 1, time.time()
            self._play(number, act)
            self.windows.append(window(self.scrapes[first:]))
            played.append((began, time.time()))
        if self._prometheus is not None:
            self.alerts = read(self._prometheus, played)
        self.tally = self._traffic.stop()
        self.acknowledged = sum(self._stage.customers.counts()["acknowledged"].values())
        self.events.read()

    def _play(self, number: int, act: Act) -> None:
        began = time.monotonic()
        steps = list(act.steps)
        while (elapsed := time.monotonic() - began) < act.seconds or steps:
            while steps and steps[0][0] <= elapsed:
                steps.pop(0)[1](self._stage)
            answered = self._scrape()
            self.events.read()
            self._show(number, act, elapsed)
            if not answered:
                break
            time.sleep(DRAIN_TICK if self._service.terminated_at else TICK)
        if act.ends_service:
            self._await_end()
        elif not self._scrape():
            raise ChildError(f"the service stopped answering in act {number}")

    def _scrape(self) -> bool:
        try:
            snapshot = self._scraper.scrape()
        except ScrapeError:
            # A stopped pool stays readable for one more scrape, and we have had it.
            if self._service.terminated_at and self.scrapes[-1].stopped:
                return False
            raise
        if snapshot is None:
            return False
        self.scrapes.append(snapshot)
        self._broken = self._broken or broken_law(snapshot)
        return True

    def _show(self, number: int, act: Act, act_elapsed: float) -> None:
        recent = [snapshot for snapshot in self.scrapes if snapshot.at >= self.scrapes[-1].at - 1.1]
        if len(recent) < 2:
            return
        self._view.show(
            Moment(
                act=act,
                number=number,
                acts=len(ACTS),
                act_elapsed=act_elapsed,
                elapsed=time.monotonic() - self._began,
                now=self.scrapes[-1],
                recent=window(recent),
                scrapes=len(self.scrapes),
                broken=self._broken,
                events=self.events,
            )
        )

    def _await_end(self) -> None:
        self._traffic.load(0.0, CUSTOMERS)
        asked = self._service.terminated_at or time.monotonic()
        self.exit_code = self._service.wait(max(0.0, asked + play.DRAIN_DEADLINE + 5.0 - time.monotonic()))
        self.exit_took = time.monotonic() - asked

    def checks(self) -> list[Check]:
        """Judge the run."""
        found = check_scrapes(self.scrapes) + check_end(
            self.scrapes[-1], self.tally, self.acknowledged, self.exit_code
        )
        limit = play.DRAIN_DEADLINE + 1.0
        found.append(
            Check(
                f"the service ended within its drain deadline + 1 s ({limit} s)",
                self.exit_took <= limit,
                f"{self.exit_took:.2f} s after SIGTERM",
            )
        )
        for number, (act, seen) in enumerate(zip(ACTS, self.windows, strict=True), start=1):
            found += check_claims(f"act {number}", act.claims, seen)
        if self.alerts is not None:
            found += check_alerts(ACTS, self.alerts)
        return found


def _service_options(folder: Path) -> list[str]:
    return [
        f"--workers={play.WORKERS}",
        f"--queue-capacity={play.CAPACITY}",
        f"--delivery-timeout={play.DELIVERY_TIMEOUT}",
        f"--hung-after={play.HUNG_AFTER}",
        f"--breaker-open-for={play.BREAKER_OPEN_FOR}",
        f"--drain-deadline={play.DRAIN_DEADLINE}",
        f"--log-file={folder / LOG}",
        f"--span-file={folder / SPANS}",
    ]


def print_report(console: Console, demo: Demo) -> bool:
    """Print what happened and whether all of it held; return the latter."""
    checks, last = demo.checks(), demo.scrapes[-1]
    console.print(account(ACTS, demo.windows, window(demo.scrapes)))
    _print(console, account_notes(last))
    console.print("", measures(ACTS, demo.windows), "")
    if demo.alerts is not None:
        console.print(alerts_fired(ACTS, demo.alerts))
    _print(console, [*alert_notes(demo.alerts), ""])
    for check in checks:
        mark = "[green]held  [/]" if check.held else "[bold red]FAILED[/]"
        console.print(f" {mark} {check.statement} [dim]({check.evidence})[/]", highlight=False)
    _print(console, ["", *senders_say(demo.tally)])
    logged = ", ".join(f"{event} {n}" for event, n in sorted(demo.events.counts.items()))
    _print(console, ["", f"Lines in the service's log, by event: {logged}.", *hung_sample(demo.events)])
    _print(console, ["", f"Exemplars (trace ids) in the last scrape: {last.exemplars}."])
    held = sum(check.held for check in checks)
    verdict = "[bold green]All held[/]" if held == len(checks) else "[bold red]Not all held[/]"
    console.print(
        f"\n {verdict}: {held} of {len(checks)} checks, {len(demo.scrapes)} scrapes.", highlight=False
    )
    return held == len(checks)


def _print(console: Console, lines: Sequence[str]) -> None:
    width = console.width - 1
    for line in lines:
        said = fill(line, width, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)
        console.print(said, soft_wrap=True, highlight=False, markup=False)


def _view(console: Console, plain: bool) -> View:
    return (
        PlainView(console)
        if plain or not console.is_terminal or console.is_dumb_terminal
        else LiveView(console)
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="A webhook service through seven incidents, in about a minute."
    )
    parser.add_argument(
        "--plain", action="store_true", help="lines, not a live table (the default off a terminal)"
    )
    parser.add_argument(
        "--keep", type=output_folder, metavar="DIR", help="leave the service's log and spans there"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 only if everything held."""
    options = parse_arguments(argv)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="prodpool-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    for name in (LOG, SPANS):
        # The service appends, as a service should; an earlier run's events would be counted again.
        (folder / name).unlink(missing_ok=True)
    held = False
    try:
        held = _run(console, folder, options.plain)
    except (ChildError, ScrapeError) as error:
        console.print(f"The demonstration failed: {error}", style="bold red", highlight=False)
    except KeyboardInterrupt:
        console.print("Interrupted.")
        return 130
    finally:
        _leave(console, folder, keep=options.keep is not None or not held)
    return 0 if held else 1


def _run(console: Console, folder: Path, plain: bool) -> bool:
    view = _view(console, plain)
    with closing(Demo(folder, view)) as demo:
        console.print(f"Metrics while it runs: {demo.metrics_url}", highlight=False)
        if demo.alerts_url:
            console.print(f"Alerts while it runs: {demo.alerts_url}", highlight=False)
        with view:
            demo.run()
        return print_report(console, demo)


def _leave(console: Console, folder: Path, *, keep: bool) -> None:
    if keep:
        said = f"Log and spans are kept in {folder}: {LOG}, {SPANS}"
    else:
        shutil.rmtree(folder)
        said = 'Log and spans are deleted; to keep them: make demo ARGS="--keep DIR"'
    # Not wrapped, so that the path can be copied.
    console.print(said, soft_wrap=True, highlight=False, markup=False)
