"""The two child processes of the demonstration: the customers and the service, on ports the system chose."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import urllib3

from .servers import LOOPBACK

ROOT = Path(__file__).resolve().parents[2]
CUSTOMERS = ("acme", "globex", "initech", "hooli")


class ChildError(Exception):
    """Raised when a child does not come up or does not do as told."""


class Child:
    """A Python module as a process of its own, which ends when this one does (its stdin closes)."""

    def __init__(self, module: str, arguments: Sequence[str], *, start_timeout: float = 20.0) -> None:
        """Start the module and wait for its first line, one JSON object that names its ports.

        Args:
            module: Within this package.
            arguments: Its command line.
            start_timeout: Seconds for that first line.

        Raises:
            ChildError: It ended, or said nothing in time.
        """
        package = __package__ or "examples.webhook_service"
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{package}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            # Ctrl-C in the terminal is for the demonstration, which then stops its children in order.
            process_group=0,
        )
        try:
            self.ports: dict[str, int] = json.loads(self._first_line(start_timeout))
        except (ChildError, ValueError) as error:
            self.kill()
            raise ChildError(f"{module} did not start: {error}") from error

    def _first_line(self, timeout: float) -> str:
        out = self._process.stdout
        if out is None or not select.select([out], [], [], timeout)[0]:
            raise ChildError(f"nothing heard for {timeout} s")
        return out.readline()

    def url(self, port: str = "port") -> str:
        """Return the base URL of one of its ports."""
        return f"http://{LOOPBACK}:{self.ports[port]}"

    @property
    def exit_code(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float) -> int | None:
        """Wait for its end; return the exit status, or None when it still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self, timeout: float = 2.0) -> None:
        """Close its stdin, which ends it; kill it if that does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self.wait(timeout) is None:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def kill(self) -> None:
        """End it at once and collect it."""
        self._process.kill()
        self._process.wait()


class Customers(Child):
    """The customers' server, and the switch for their behaviour."""

    def __init__(self) -> None:
        """Start it on a free port."""
        super().__init__("customers", ["--stop-with-stdin"])
        self._http = urllib3.PoolManager(retries=False, timeout=5.0)

    def hook(self, customer: str) -> str:
        """Return the URL that receives a customer's webhooks."""
        return f"{self.url()}/hooks/{customer}"

    def behave(self, mode: str, seconds: float = 0.005, *names: str) -> None:
        """Make the named customers, or all of them, behave so from now on."""
        for name in names or CUSTOMERS:
            answer = self._http.request(
                "PUT", f"{self.url()}/control/{name}", json={"mode": mode, "seconds": seconds}
            )
            if answer.status != 200:
                raise ChildError(f"the customers refused: {answer.data.decode()}")

    def counts(self) -> dict[str, dict[str, int]]:
        """Return what each customer received and acknowledged, by their own count."""
        counts: dict[str, dict[str, int]] = self._http.request("GET", f"{self.url()}/control").json()
        return counts


class ServiceProcess(Child):
    """The webhook service as a process, hence with real signals."""

    def __init__(self, customers: Customers, *options: str) -> None:
        """Start it with every customer's URL, and ``options`` of its command line."""
        targets = [f"--customer={name}={customers.hook(name)}" for name in CUSTOMERS]
        super().__init__("service", [*targets, "--stop-with-stdin", *options])
        self.terminated_at: float | None = None

    @property
    def metrics_url(self) -> str:
        """Where its metrics are."""
        return f"{self.url('metrics_port')}/metrics"

    def terminate(self) -> None:
        """Send SIGTERM and remember when."""
        self.terminated_at = time.monotonic()
        self.send(signal.SIGTERM)
