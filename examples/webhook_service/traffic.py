"""The senders of webhooks: a load that comes at its own rate, whatever the service answers, and is bounded.

The rate is kept by a pacer thread, so a service that answers slowly does not slow its senders down (an open
loop); a closed loop would hide just the overload this example is about.
"""

from __future__ import annotations

import heapq
import itertools
import json
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import urllib3

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BODY = json.dumps({"event": "order.paid", "id": "evt_0001", "amount": 4200}).encode()


@dataclass(frozen=True, slots=True)
class Tally:
    """What the senders saw, counted by them alone.

    Attributes:
        accepted: Requests answered with 202.
        refused: Requests the pool refused, by the reason in the answer ("full", "breaker_open", "closed").
        missed: Requests that never reached the pool: no connection, or turned away at the socket.
        cut: Requests whose answer never came; whether the pool saw them is unknown.
        waited: Refusals after which the sender waited as `Retry-After` said, and came again.
        lost: Webhooks given up at their first refusal, by senders that do not wait.
        exhausted: Webhooks given up by senders that waited, after their last attempt or at the end of it all.
    """

    accepted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    missed: int = 0
    cut: int = 0
    waited: int = 0
    lost: int = 0
    exhausted: int = 0

    @property
    def offered(self) -> int:
        """Requests that the pool is known to have answered."""
        return self.accepted + sum(self.refused.values())


@dataclass(order=True, slots=True)
class _Webhook:
    due: float
    number: int
    customer: str = field(compare=False)
    patience: int = field(compare=False)  # how often it comes again after a refusal
    came_again: bool = field(compare=False, default=False)


class Traffic:
    """Sends webhooks from a fixed number of threads; ``_lock`` guards load, waiting webhooks and counts."""

    def __init__(self, url: str, *, senders: int = 24, max_requests: int = 20_000, seed: int = 2) -> None:
        """Prepare to send to ``url``, which must be on loopback.

        Args:
            url: The service's base URL.
            senders: Threads, hence requests at the same time.
            max_requests: After so many, nothing more is sent.
            seed: Of the jitter on `Retry-After`.
        """
        if urlsplit(url).hostname not in _LOOPBACK:
            raise ValueError(f"url is {url!r}; this load generator sends to loopback only")
        self._url = url
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._budget = max_requests
        self._waiting: list[_Webhook] = []
        self._rate = 0.0
        self._mix = itertools.cycle([""])
        self._next_due = 0.0
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        # Bounded: with every sender stuck, webhooks are skipped, not heaped up.
        self._due: queue.Queue[_Webhook | None] = queue.Queue(maxsize=4096)
        self._stopping = threading.Event()
        self._http = urllib3.PoolManager(
            maxsize=senders, retries=False, timeout=urllib3.Timeout(connect=2.0, read=5.0)
        )
        self._threads = [threading.Thread(target=self._pace, name="pacer", daemon=True)]
        self._threads += [
            threading.Thread(target=self._send_all, name=f"sender-{n}", daemon=True) for n in range(senders)
        ]

    def start(self) -> None:
        """Start the threads; nothing is sent before `load` or `burst`."""
        for thread in self._threads:
            thread.start()

    def load(self, rate: float, customers: Sequence[str]) -> None:
        """Send ``rate`` webhooks per second from now on, to the customers in turn; 0 sends none."""
        with self._lock:
            self._rate, self._mix, self._next_due = rate, itertools.cycle(customers), time.monotonic()

    def burst(self, customer: str, count: int, *, patience: int) -> None:
        """Send ``count`` webhooks at once, each coming again up to ``patience`` times when refused."""
        now = time.monotonic()
        with self._lock:
            for _ in range(count):
                heapq.heappush(self._waiting, _Webhook(now, next(self._numbers), customer, patience))

    def tally(self) -> Tally:
        """Return the counts so far."""
        with self._lock:
            counts = self._counts
            return Tally(
                counts["accepted"],
                dict(self._refused),
                counts["missed"],
                counts["cut"],
                counts["waited"],
                counts["lost"],
                counts["exhausted"],
            )

    def stop(self, timeout: float = 10.0) -> Tally:
        """Send nothing more, wait for the answers still due, and return the final counts."""
        self._stopping.set()
        give_up = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        self._http.clear()
        with self._lock:
            self._counts["exhausted"] += sum(webhook.came_again for webhook in self._waiting)
            self._waiting.clear()
        return self.tally()

    def _pace(self) -> None:
        while not self._stopping.wait(0.004):
            with self._lock:
                due = self._take_due(time.monotonic())
                self._budget -= len(due)
            for webhook in due:
                self._due.put(webhook)
        for _ in self._threads[1:]:
            self._due.put(None)

    def _take_due(self, now: float) -> list[_Webhook]:
        due: list[_Webhook] = []
        while self._waiting and self._waiting[0].due <= now and len(due) < self._budget:
            due.append(heapq.heappop(self._waiting))
        # After a stall of this machine, a quarter of a second is made up for and the rest is let go.
        self._next_due = max(self._next_due, now - 0.25)
        while self._rate and self._next_due <= now and len(due) < self._budget:
            due.append(_Webhook(now, next(self._numbers), next(self._mix), patience=0))
            self._next_due += 1 / self._rate
        return due

    def _send_all(self) -> None:
        while (webhook := self._due.get()) is not None:
            self._send(webhook)

    def _send(self, webhook: _Webhook) -> None:
        try:
            answer = self._http.request("POST", f"{self._url}/webhooks/{webhook.customer}", body=_BODY)
        except (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError):
            self._count("missed")
        except urllib3.exceptions.HTTPError:
            self._count("cut")
        else:
            self._read(webhook, answer)

    def _read(self, webhook: _Webhook, answer: urllib3.BaseHTTPResponse) -> None:
        if answer.status == 202:
            self._count("accepted")
            return
        reason = str(answer.json().get("reason", answer.status))
        if reason == "connections":
            self._count("missed")
            return
        with self._lock:
            self._refused[reason] += 1
            if webhook.patience > 0 and "Retry-After" in answer.headers:
                self._counts["waited"] += 1
                self._come_again(webhook, int(answer.headers["Retry-After"]))
            else:
                self._counts["exhausted" if webhook.came_again else "lost"] += 1

    def _come_again(self, webhook: _Webhook, seconds: int) -> None:
        # Spread over as long again: all of them back on the same tick would be the same burst once more.
        due = time.monotonic() + seconds * (1 + self._random.random())
        heapq.heappush(
            self._waiting,
            _Webhook(due, webhook.number, webhook.customer, webhook.patience - 1, came_again=True),
        )

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
