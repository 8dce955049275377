"""The three incidents as they are staged: real pools, real calls over loopback, and what begins each.

The proportions are those of the accounts that the incidents are known from; what an account leaves open, or
gives in numbers that do not agree, is said where the number is.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from examples.webhook_service.processes import ROOT, Customers, ServiceProcess
from examples.webhook_service.traffic import Traffic
from tests.observe.child import LOOPBACK, Child

# The customer of the webhook service's world that is ill, and the one that stands for a partner's API.
ILL, PARTNER = "initech", "acme"


@dataclass(frozen=True, slots=True)
class Proportions:
    """The numbers of all three incidents.

    Attributes:
        hung_after: Seconds, of every pool.
        webhooks: Webhooks per second; one in ``hung_share`` goes to the customer that hangs.
        deliverers: Workers of the webhook service; its queue has the default capacity, twice as many places.
        delivery: Seconds of a delivery to a customer that is well.
        records: Records per second of the batch processor, which pulls ``batch`` of them at a time.
        transformers: Its workers.
        batch_capacity: Places in its queue.
        api: Seconds of a call of its API, when well and when ill.
        items: Records per second of the pipeline.
        channel: Places between its first two stages.
        third_party: Seconds of a call of the API of the second stage, when well and when ill.
    """

    hung_after: float = 60.0
    webhooks: float = 50.0
    hung_share: int = 25
    deliverers: int = 50
    delivery: float = 0.2
    # 16 workers and 200 ms make 80 records a second. The account has the queue at about 100 before, and no
    # rate: with batches of 100 at three quarters of that load it is.
    records: float = 62.5
    batch: int = 100
    transformers: int = 16
    batch_capacity: int = 1000
    api: tuple[float, float] = (0.2, 30.0)
    items: float = 100.0
    channel: int = 10_000
    third_party: tuple[float, float] = (0.05, 5.0)


class Scene(ABC):
    """One service that runs, calm at first."""

    name: str
    pools: tuple[str, ...]

    def __init__(self, folder: Path, proportions: Proportions) -> None:
        self._folder = folder
        self._numbers = proportions
        self._running = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.customers = Customers()
            self._running.callback(self.customers.close)
            self._start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    @abstractmethod
    def _start(self) -> None:
        """Start the service, and give it work."""

    @abstractmethod
    def strike(self) -> None:
        """Begin the incident."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Host and port of its metrics."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id of the service."""


class HungWebhook(Scene):
    """Incident 1: one customer's server accepts and never answers, and deliveries have no timeout."""

    name = "hung_webhook"
    pools = ("webhook_delivery",)

    def _start(self) -> None:
        numbers = self._numbers
        self.customers.behave("healthy", numbers.delivery)
        self._service = ServiceProcess(
            self.customers,
            "--hang-for-ever",
            f"--workers={numbers.deliverers}",
            f"--hung-after={numbers.hung_after}",
            "--drain-deadline=0.3",
            f"--log-file={self._folder / f'{self.name}.log'}",
        )
        self._running.callback(self._service.close)
        traffic = Traffic(self._service.url(), max_requests=10_000_000)
        self._running.callback(traffic.stop)
        traffic.start()
        traffic.load(numbers.webhooks, [ILL, *["hooli"] * (numbers.hung_share - 1)])

    def strike(self) -> None:
        """Have one customer accept and never answer."""
        self.customers.behave("hanging", 0.0, ILL)

    @property
    def address(self) -> str:
        """Host and port of its metrics."""
        return f"{LOOPBACK}:{self._service.ports['metrics_port']}"

    @property
    def pid(self) -> int:
        """Process id of the service."""
        return self._service.ports["pid"]


class _Program(Scene):
    """A service that is a program beside this file."""

    def _run(self, module: str, *options: str) -> None:
        command = [sys.executable, "-m", f"tools.incidents.{module}", f"--api={self.customers.hook(PARTNER)}"]
        self._child = Child([*command, *options], self._folder / f"{self.name}.log", cwd=ROOT)
        self._running.callback(self._child.end)
        self._port = self._child.wait_for(r"PORT (\d+)")[1]

    def _answer_in(self, seconds: float) -> None:
        self.customers.behave("slow", seconds, PARTNER)

    @property
    def address(self) -> str:
        """Host and port of its metrics."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the service."""
        return self._child.pid


class UnboundedQueue(_Program):
    """Incident 2: the API of a batch processor takes 30 s instead of 200 ms; here, before a bounded queue."""

    name = "unbounded_queue"
    pools = ("transform",)

    def _start(self) -> None:
        numbers = self._numbers
        self._answer_in(numbers.api[0])
        self._run(
            "batch",
            f"--workers={numbers.transformers}",
            f"--capacity={numbers.batch_capacity}",
            f"--rate={numbers.records}",
            f"--batch={numbers.batch}",
            f"--hung-after={numbers.hung_after}",
        )

    def strike(self) -> None:
        """Have the API answer late."""
        self._answer_in(self._numbers.api[1])


class CascadingSlowdown(_Program):
    """Incident 3: the second of three stages calls a third party that takes 5 s instead of 50 ms."""

    name = "cascading_slowdown"
    pools = ("parse", "enrich", "write")

    def _start(self) -> None:
        numbers = self._numbers
        self._answer_in(numbers.third_party[0])
        self._run(
            "pipeline",
            f"--capacity={numbers.channel}",
            f"--rate={numbers.items}",
            f"--hung-after={numbers.hung_after}",
        )

    def strike(self) -> None:
        """Have the third party answer late."""
        self._answer_in(self._numbers.third_party[1])


SCENES: tuple[type[Scene], ...] = (HungWebhook, UnboundedQueue, CascadingSlowdown)
