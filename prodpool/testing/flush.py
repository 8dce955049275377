"""Waiting for log lines and spans."""

from __future__ import annotations

from prodpool.pool import InstrumentedPool


def flush_telemetry(pool: InstrumentedPool, timeout: float = 5.0) -> bool:
    """Wait until the pool's log and tracer have been given everything that is due to them by now.

    The pool writes lines and ends spans in threads of their own, shortly after the events that they describe.
    A test that looks at lines or spans calls this function first. ``pool.stop()`` does the same.

    Args:
        pool: The pool whose lines and spans are wanted.
        timeout: Seconds to wait at most.

    Returns:
        False if the log handler or the exporter was not done by then, for example because it hangs.
    """
    return pool._engine.sinks.flush(timeout)  # noqa: SLF001  # the pool has no public word for it
