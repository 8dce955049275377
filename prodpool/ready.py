"""Ready-made pools, for services that have no executor yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from prodpool.clock import Clock
from prodpool.pool import InstrumentedPool
from prodpool.settings import Overload, check_name, pool_size_from
from prodpool.workers.daemon import DaemonThreadExecutor

if TYPE_CHECKING:
    import pybreaker
    from opentelemetry.trace import TracerProvider
    from prometheus_client.registry import CollectorRegistry

    from prodpool.admission.policy import BreakerPolicy


class PoolOptions(TypedDict, total=False):
    """What `threads` hands on to `InstrumentedPool`."""

    queue_capacity: int | None
    overload: Overload
    slow_after: float
    hung_after: float
    drain_deadline: float
    breaker: BreakerPolicy | pybreaker.CircuitBreaker | None
    registry: CollectorRegistry | None
    tracer_provider: TracerProvider | None
    logger: Any
    buckets: Sequence[float] | None
    clock: Clock | None


def threads(*, name: str, max_workers: int | None = None, **options: Unpack[PoolOptions]) -> InstrumentedPool:
    """Return a pool on daemon threads of its own, which never hold up the interpreter's exit.

    Args:
        name: As for `InstrumentedPool`; the threads bear it too.
        max_workers: None for what the environment variable WORKER_POOL_SIZE says, 50 if it is not set.
        options: As for `InstrumentedPool`.

    Raises:
        ValueError: WORKER_POOL_SIZE is malformed, or any argument is wrong.
    """
    size = pool_size_from() if max_workers is None else max_workers
    backend = DaemonThreadExecutor(check_name(name))
    return InstrumentedPool(backend, name=name, max_workers=size, **options)
