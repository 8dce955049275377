"""What every scene has: a service that runs, calm at first, and what begins its incident."""

from __future__ import annotations

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from examples.webhook_service.processes import ROOT
from tests.observe.child import LOOPBACK, Child

# Numbers of a command line, by the option's name.
Options = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Proportions:
    """The numbers of the incidents.

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
        changed: Options of other programs that are not to be what their scene says, by the scene's name.
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
    changed: Mapping[str, Options] = field(default_factory=dict)


class Scene(ABC):
    """One service that runs, calm at first.

    Attributes:
        name: Of the scene; the job that its metrics have.
        cause: What is wrong once it was struck; what the runbook has to lead to.
        pools: The pools that findings are made of.
    """

    name: ClassVar[str]
    cause: ClassVar[str]
    pools: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, proportions: Proportions) -> None:
        self._folder = folder
        self._numbers = proportions
        self._running = ExitStack()

    def __enter__(self) -> Self:
        try:
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
    def addresses(self) -> tuple[str, ...]:
        """Host and port of the metrics of each of its processes."""
        return (self.address,)

    @property
    @abstractmethod
    def pid(self) -> int:
        """Process id of the service."""

    @property
    def log(self) -> Path:
        """The service's log: one JSON object per line."""
        return self._folder / f"{self.name}.log"


class Program(Scene):
    """A service that is a program beside this file.

    Attributes:
        module: Of the program; by default the scene's name.
        options: What it is told, besides where to log and what counts as hung.
    """

    module: ClassVar[str] = ""
    options: ClassVar[Options] = {}

    def _start(self) -> None:
        options = {**self.options, **self._numbers.changed.get(self.name, {})}
        self._run(self.module or self.name, *(f"--{name}={number}" for name, number in options.items()))

    def _run(self, module: str, *options: str) -> None:
        self._child, self._port = self._begin(module, self.name, *options)
        self._running.callback(self._child.end)

    def _begin(self, module: str, out: str, *options: str) -> tuple[Child, int]:
        """Start a program; return it and the port of its metrics."""
        told = (f"--log={self.log}", f"--hung-after={self._numbers.hung_after}", *options)
        command = [sys.executable, "-m", f"tools.incidents.{module}", *told]
        child = Child(command, self._folder / f"{out}.out", cwd=ROOT)
        try:
            return child, int(child.wait_for(r"PORT (\d+)")[1])
        except BaseException:
            child.end()
            raise

    def strike(self) -> None:
        """Tell the program that its incident begins."""
        os.kill(self.pid, signal.SIGUSR1)

    @property
    def address(self) -> str:
        """Host and port of its metrics."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def pid(self) -> int:
        """Process id of the service."""
        return self._child.pid
