"""The ways that a call may take to a backend: by its ``submit``, or past it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from prodpool.workers.base import Capabilities, NotTakenError
from prodpool.workers.beacon import Beacon
from prodpool.workers.channel import Channel
from prodpool.workers.courier import Courier
from prodpool.workers.ends import POSSIBLE
from prodpool.workers.shim import Outcome
from prodpool.workers.supply import Supply
from prodpool.workers.transport import Transport
from prodpool.workers.window import Handover


class Arrivals(Protocol):
    """What of `Exchange` is needed here; all of it in the courier's thread."""

    def arrived(self, handover: Handover, generation: int, outcome: Outcome) -> None:
        """Hear how a call went."""

    def lost(self, handover: Handover, generation: int, error: BaseException) -> None:
        """Hear that there is no outcome, and what the backend says of that."""

    def came_back(self, handover: Handover, generation: int, error: BaseException | None) -> None:
        """Hear that a call was not made, because the backend takes no more if ``error`` is given."""


class Routes:
    """Sends the calls of one pool.

    Args:
        transport: What they travel as.
        supply: The backend in use.
        abilities: What it can do.
        beacon: What its workers see of the pool; None where they see nothing.
        workers: How many of them the pool may use.
        courier: In whose thread everything comes home.
        arrivals: Who is told of it.
        on_sent: Called after each time that the backend has taken something.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        supply: Supply,
        abilities: Capabilities,
        beacon: Beacon | None,
        workers: Callable[[], int],
        courier: Courier,
        arrivals: Arrivals,
        on_sent: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._supply = supply
        self._abilities = abilities
        self._beacon = beacon
        self._workers = workers
        self._courier = courier
        self._arrivals = arrivals
        self._on_sent = on_sent
        self._lock = threading.Lock()
        # Guarded by _lock: the way past the backend of that generation; None if there is none.
        self._channel: Channel | None = None
        self._generation = 0

    def send(self, handover: Handover, generation: int, call: tuple[Any, ...]) -> None:
        """Have a packed call made by the backend of ``generation``.

        Raises:
            UnpicklableError: The backend cannot carry the call; the message says what in it.
            TypeError: Its ``submit`` returns no future.
            BaseException: What else its ``submit`` raises.
        """
        seat, task, _ = handover
        backend = self._supply.backend
        ticket = self._transport.ticket(seat, task)
        channel = self._channel_to(backend, generation)
        if channel is not None and channel.send(handover, ticket, *call):
            return
        lease = self._transport.send(backend, task, ticket, call)
        self._on_sent()
        try:
            lease.add_done_callback(
                lambda lease: self._courier.post(partial(self._come_home, handover, generation, lease))
            )
        except AttributeError:
            raise NoFutureError(backend, lease) from None

    def close(self) -> None:
        """Let go of everything; nothing is under way any more."""
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            self._courier.post(channel.close)

    def _come_home(self, handover: Handover, generation: int, lease: Future[Any]) -> None:
        try:
            outcome = lease.result(0)
        except NotTakenError as late:
            self._arrivals.came_back(handover, generation, late.error)
        except BaseException as error:  # noqa: BLE001  # whatever the backend found to raise instead
            self._arrivals.lost(handover, generation, error)
        else:
            self._arrivals.arrived(handover, generation, outcome)

    def _channel_to(self, backend: Any, generation: int) -> Channel | None:
        if self._abilities.linger == 0.0 or self._beacon is None or not POSSIBLE:
            return None
        with self._lock:
            if generation > self._generation:
                if self._channel is not None:
                    self._courier.post(self._channel.retire)
                self._channel = None
                with suppress(OSError):  # for want of descriptors, say; its submit will do
                    self._channel = self._open(self._beacon, backend, generation)
                self._generation = generation
            return self._channel if generation == self._generation else None

    def _open(self, beacon: Beacon, backend: Any, generation: int) -> Channel:
        arrivals = self._arrivals
        return Channel(
            # Not the beacon's own name and a dot: those are the files that stacks are written to.
            f"{beacon.path}.{generation}.calls",
            linger=self._abilities.linger,
            lend=partial(self._lend, backend),
            workers=self._workers,
            courier=self._courier,
            on_outcome=lambda handover, outcome: arrivals.arrived(handover, generation, outcome),
            on_back=lambda handover, error: arrivals.came_back(handover, generation, error),
            on_lost=lambda handover, error: arrivals.lost(handover, generation, error),
        )

    def _lend(self, backend: Any, *call: Any) -> Future[Any]:
        lease = self._transport.submit(backend, *call)
        self._on_sent()
        return lease


class NoFutureError(TypeError):
    """A backend's ``submit`` returned something else."""

    def __init__(self, backend: Any, returned: Any) -> None:
        super().__init__(
            f"backend={backend!r} returned {returned!r} from submit, which has no add_done_callback: wrap an "
            "executor whose submit returns a future as concurrent.futures does"
        )
