"""Helpers for the tests of services that use prodpool."""

from prodpool.concurrency.clock import Clock, ManualClock
from prodpool.task.task import TaskOptions
from prodpool.testing.flush import flush_telemetry
from prodpool.testing.pool_factory import InstrumentedPoolOptions, PoolFactory
from prodpool.testing.recording_pool import RecordingPool
from prodpool.testing.submission import Submission
from prodpool.workers.inline.executor import InlineExecutor

__all__ = [
    "Clock",
    "InlineExecutor",
    "InstrumentedPoolOptions",
    "ManualClock",
    "PoolFactory",
    "RecordingPool",
    "Submission",
    "TaskOptions",
    "flush_telemetry",
]
