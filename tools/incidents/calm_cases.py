"""Services that are well, of which no alert may speak: at their daily work, and at what belongs to it."""

from __future__ import annotations

import threading
from typing import ClassVar

from tests.observe.child import LOOPBACK, Child
from tools.incidents.scene import Options, Program, Scene


class Calm(Program):
    """A steady load."""

    name = "calm"
    cause = "nothing"
    pools = ("mail",)
    module = "steady"
    options: ClassVar[Options] = {"rate": 20.0, "seconds": 0.2}

    def strike(self) -> None:
        """Go on."""


class Burst(Program):
    """Three times the load for two minutes, which the queue takes."""

    name = "burst"
    cause = "nothing"
    pools = ("mail",)
    module = "steady"
    options: ClassVar[Options] = {"rate": 20.0, "seconds": 0.2, "burst": 120.0}


class NightlyBatch(Program):
    """A batch of long tasks, for whose pool the rules are exported with a duration of its own."""

    name = "nightly_batch"
    cause = "nothing"
    pools = ("mail", "archive")
    module = "steady"
    options: ClassVar[Options] = {"rate": 20.0, "seconds": 0.2, "batch": 20.0}


class Deployment(Program):
    """Three processes are replaced, one after the other, each by one on its port once it has drained."""

    name = "deployment"
    cause = "nothing"
    pools = ("mail",)
    module = "steady"
    options: ClassVar[Options] = {"rate": 10.0, "seconds": 0.2}

    def _start(self) -> None:
        options = {**self.options, "pause": 60.0, **self._numbers.changed.get(self.name, {})}
        self._pause = options.pop("pause")  # seconds between two replacements
        self._told = [f"--{name}={number}" for name, number in options.items()]
        self._over = threading.Event()
        self._children: list[Child] = []
        self._ports: list[int] = []
        self._running.callback(lambda: [child.end() for child in self._children])
        for number in range(3):
            child, port = self._begin(self.module, f"{self.name}{number}", *self._told)
            self._children.append(child)
            self._ports.append(port)
        self._rollout = threading.Thread(target=self._replace_all, name="rollout")
        self._running.callback(self._end_rollout)

    def _end_rollout(self) -> None:
        self._over.set()
        if self._rollout.ident is not None:
            self._rollout.join()

    def strike(self) -> None:
        """Begin to replace the processes."""
        self._rollout.start()

    def _replace_all(self) -> None:
        for number, port in enumerate(self._ports):
            if self._over.is_set():
                break
            self._children[number].end()
            out = f"{self.name}{number}b"
            self._children[number], _ = self._begin(self.module, out, *self._told, f"--port={port}")
            self._over.wait(self._pause)
        # What a thread has started is killed when the thread ends, as a child of a dead parent.
        self._over.wait()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Host and port of the metrics of each of its processes."""
        return tuple(f"{LOOPBACK}:{port}" for port in self._ports)

    @property
    def address(self) -> str:
        """Host and port of the metrics of the first one."""
        return self.addresses[0]

    @property
    def pid(self) -> int:
        """Process id of the first one."""
        return self._children[0].pid


CALM_CASES: tuple[type[Scene], ...] = (Calm, Burst, NightlyBatch, Deployment)
