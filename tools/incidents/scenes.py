"""The three incidents that the runbook tells, as they are staged: real pools, and real calls over loopback.

The proportions are those of the accounts that the incidents are known from; what an account leaves open, or
gives in numbers that do not agree, is said where the number is.
"""

from __future__ import annotations

from examples.webhook_service.processes import Customers, ServiceProcess
from examples.webhook_service.traffic import Traffic
from tests.observe.child import LOOPBACK
from tools.incidents.causes import CAUSES
from tools.incidents.scene import Program, Scene

# The customer of the webhook service's world that is ill, and the one that stands for a partner's API.
ILL, PARTNER = "initech", "acme"


class HungWebhook(Scene):
    """Incident 1: one customer's server accepts and never answers, and deliveries have no timeout."""

    name = "hung_webhook"
    cause = "hung call"
    pools = ("webhook_delivery",)

    def _start(self) -> None:
        numbers = self._numbers
        self._customers = Customers()
        self._running.callback(self._customers.close)
        self._customers.behave("healthy", numbers.delivery)
        self._service = ServiceProcess(
            self._customers,
            "--hang-for-ever",
            f"--workers={numbers.deliverers}",
            f"--hung-after={numbers.hung_after}",
            "--drain-deadline=0.3",
            f"--log-file={self.log}",
        )
        self._running.callback(self._service.close)
        traffic = Traffic(self._service.url(), max_requests=10_000_000)
        self._running.callback(traffic.stop)
        traffic.start()
        traffic.load(numbers.webhooks, [ILL, *["hooli"] * (numbers.hung_share - 1)])

    def strike(self) -> None:
        """Have one customer accept and never answer."""
        self._customers.behave("hanging", 0.0, ILL)

    @property
    def address(self) -> str:
        """Host and port of its metrics."""
        return f"{LOOPBACK}:{self._service.ports['metrics_port']}"

    @property
    def pid(self) -> int:
        """Process id of the service."""
        return self._service.ports["pid"]


class _Partner(Program):
    """A program that calls a partner's API."""

    def _start(self) -> None:
        self._customers = Customers()
        self._running.callback(self._customers.close)

    def _run(self, module: str, *options: str) -> None:
        super()._run(module, f"--api={self._customers.hook(PARTNER)}", *options)

    def _answer_in(self, seconds: float) -> None:
        self._customers.behave("slow", seconds, PARTNER)


class UnboundedQueue(_Partner):
    """Incident 2: the API of a batch processor takes 30 s instead of 200 ms; here, before a bounded queue."""

    name = "unbounded_queue"
    cause = "slow dependency"
    pools = ("transform",)

    def _start(self) -> None:
        super()._start()
        numbers = self._numbers
        self._answer_in(numbers.api[0])
        self._run(
            "batch",
            f"--workers={numbers.transformers}",
            f"--capacity={numbers.batch_capacity}",
            f"--rate={numbers.records}",
            f"--batch={numbers.batch}",
        )

    def strike(self) -> None:
        """Have the API answer late."""
        self._answer_in(self._numbers.api[1])


class CascadingSlowdown(_Partner):
    """Incident 3: the second of three stages calls a third party that takes 5 s instead of 50 ms."""

    name = "cascading_slowdown"
    cause = "slow dependency"
    pools = ("parse", "enrich", "write")

    def _start(self) -> None:
        super()._start()
        numbers = self._numbers
        self._answer_in(numbers.third_party[0])
        self._run(
            "pipeline",
            f"--capacity={numbers.channel}",
            f"--rate={numbers.items}",
        )

    def strike(self) -> None:
        """Have the third party answer late."""
        self._answer_in(self._numbers.third_party[1])


SCENES: tuple[type[Scene], ...] = (HungWebhook, UnboundedQueue, CascadingSlowdown, *CAUSES)
