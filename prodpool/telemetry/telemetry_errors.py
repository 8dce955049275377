"""Errors of observers: each is counted, the first of its sink is reported, and no task is touched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prodpool.concurrency.call_queue import CallQueue
from prodpool.telemetry.tracebacks import render_error

# The label ``sink`` of workerpool_telemetry_errors_total.
SINKS = ("log", "trace", "breaker", "callback", "around", "watchdog", "metrics", "internal")


# There are two reports to a sink at most.
_MOST_REPORTS = 2 * len(SINKS)


class TelemetryErrors:
    """Counts what observers raised, by sink, and has the first of each reported.

    ``messages``: whether a report shows the text of the exceptions.
    """

    def __init__(self, pool: str, *, messages: bool = True) -> None:
        self._pool = pool
        self._messages = messages
        # Reentrant: a finalizer or a signal handler may report an error in the middle of `count`.
        self._lock = threading.RLock()
        self._counts: dict[str, int] = dict.fromkeys(SINKS, 0)
        self._overflowed: set[str] = set()
        self.reports = self._reporter()

    def forked(self) -> None:
        """Go on in a forked child, where the lock may be held for ever and there is no thread."""
        self._lock = threading.RLock()
        self.reports = self._reporter()

    def report(self, sink: str, error: BaseException) -> None:
        """Count ``error``; the first of its sink is written to the logger ``prodpool``."""
        if self.count(sink) > 1:
            return
        # As text: renderers of exc_info may print locals, and a callback's hold results.
        self.reports.post(self._write, sink, render_error(error, messages=self._messages))

    def overflow(self, sink: str) -> None:
        """Count a call to ``sink`` that was thrown away because too many wait; report the first."""
        self.count(sink)
        if sink in self._overflowed:
            return
        self._overflowed.add(sink)
        why = "it hangs or is too slow: too much waits for it, and what comes now is thrown away"
        self.reports.post(self._write, sink, why)

    def _reporter(self) -> CallQueue:
        # Of its own: the sink that is reported on may be the one that hangs.
        return CallQueue(
            f"prodpool-report-{self._pool}", capacity=_MOST_REPORTS, failed=_ignore, lost=_ignore
        )

    def _write(self, sink: str, text: str) -> None:
        # Straight to the standard library: the configured log may be what is broken. Should this fail as
        # well, the count still stands.
        logging.getLogger("prodpool").error(
            "pool.telemetry_error pool=%s sink=%s; further ones are only counted\n%s", self._pool, sink, text
        )

    def count(self, sink: str) -> int:
        """Count an error that is reported elsewhere; returns how many of its sink there were."""
        with self._lock:
            self._counts[sink] += 1
            return self._counts[sink]

    @contextmanager
    def guard(self, sink: str) -> Iterator[None]:
        """Report what the block raises instead of letting it out; only Ctrl-C goes through."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # observers raise SystemExit and worse
            self.report(sink, error)

    def counts(self) -> dict[str, int]:
        """Return how many errors there were, by sink."""
        with self._lock:
            counts = dict(self._counts)
        return counts  # noqa: RET504  # what raises at the call must find the lock in its block


def _ignore(*_: object) -> None:
    """Do nothing: it is the last resort, and there is nowhere left to report to."""
