"""What went wrong while observing: reported once, counted always, never in a task's way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prodpool.telemetry.stacks import render_error

# The label ``sink`` of workerpool_telemetry_errors_total.
SINKS = ("log", "trace", "breaker", "callback", "watchdog", "internal")


class Trouble:
    """Counts what observers raised, by sink, and hands the first of each on to be reported."""

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._counts: dict[str, int] = dict.fromkeys(SINKS, 0)

    def forked(self) -> None:
        """Go on in a forked child, where the lock may be held for ever."""
        self._lock = threading.Lock()

    def report(self, sink: str, error: BaseException) -> None:
        """Count ``error``; the first of its sink is written to the logger ``prodpool``."""
        if self.count(sink) > 1:
            return
        # Straight to the standard library: the configured log may be what is broken. Should this fail as
        # well, the count still stands.
        with suppress(Exception):
            logging.getLogger("prodpool").error(
                "pool.telemetry_error pool=%s sink=%s; further ones are only counted\n%s",
                self._pool,
                sink,
                # As text: renderers of exc_info may print locals, and a callback's hold results.
                render_error(error),
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
            return dict(self._counts)
