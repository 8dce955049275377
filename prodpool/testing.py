"""Helpers for the tests of services that use prodpool."""

from prodpool.clock import ManualClock

__all__ = ["ManualClock"]
