"""Eight more causes, each a program of its own that stands for services as they are met.

Churn, the slow index and the connections are known from accounts. Their proportions are kept; loads are what
two cores bear beside the others.
"""

from __future__ import annotations

from typing import ClassVar

from tools.incidents.scene import Options, Program, Scene


class Churn(Program):
    """Incident 4: each batch gets a pool of its own, so each worker lives for a moment."""

    name = "churn"
    cause = "worker churn"
    pools = ("thumbnails",)
    options: ClassVar[Options] = {"rate": 2.0}


class SlowIndex(Program):
    """Indexing a document calls one more service, for ten times as long as indexing takes.

    The account has 600 documents a second, and a queue without a bound.
    """

    name = "slow_index"
    cause = "slower tasks"
    pools = ("index",)
    options: ClassVar[Options] = {
        "workers": 32,
        "capacity": 100_000,
        "rate": 300.0,
        "indexing": 0.05,
        "entities": 0.5,
    }


class ConnectionPool(Program):
    """Queries take ten times as long, and 50 workers wait for 5 connections."""

    name = "connection_pool"
    cause = "connection pool too small"
    pools = ("jobs",)
    options: ClassVar[Options] = {
        "workers": 50,
        "connections": 5,
        "rate": 120.0,
        "query": 0.02,
        "slow-query": 0.2,
    }


class Deadlock(Program):
    """The tasks of two pools wait for tasks of the other one, on every worker."""

    name = "deadlock"
    cause = "cycle of pools"
    pools = ("orders", "stock")
    options: ClassVar[Options] = {"workers": 4, "rate": 5.0, "burst": 50}


class GilHog(Program):
    """Pure-Python tasks of one pool keep the interpreter from those of another."""

    name = "gil_hog"
    cause = "starvation"
    pools = ("reports", "answers")
    options: ClassVar[Options] = {"rate": 20.0, "renderers": 8}


class RetryStorm(Program):
    """Clients offer again what was refused or takes long: 300 a second for the 50 that can be served."""

    name = "retry_storm"
    cause = "retry storm"
    pools = ("checkout",)
    options: ClassVar[Options] = {
        "workers": 10,
        "capacity": 100,
        "rate": 45.0,
        "seconds": 0.2,
        "clients": 100,
        "client-timeout": 1.0,
        "burst": 300,
    }


class DyingWorker(Program):
    """One task in ten minutes kills its worker process."""

    name = "dying_worker"
    cause = "dying workers"
    pools = ("decode",)
    options: ClassVar[Options] = {"rate": 2.0, "every": 600.0}


class LeakedSemaphore(Program):
    """One way through a task never releases what it has acquired."""

    name = "leaked_semaphore"
    cause = "leaked resource"
    pools = ("scan",)
    options: ClassVar[Options] = {
        "workers": 16,
        "licences": 10,
        "rate": 20.0,
        "seconds": 0.1,
        "empty-share": 50,
    }


CAUSES: tuple[type[Scene], ...] = (
    Churn,
    SlowIndex,
    ConnectionPool,
    Deadlock,
    GilHog,
    RetryStorm,
    DyingWorker,
    LeakedSemaphore,
)
