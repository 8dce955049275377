"""A real Prometheus beside the demonstration: it scrapes the service and evaluates the project's alert rules.

It is there if Debian's `prometheus` (or any other) is on this machine; nothing else here needs it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import urllib3

from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds

from .processes import ChildError
from .servers import LOOPBACK

PROGRAM = "prometheus"
JOB = "webhooks"
# Seconds between two scrapes, and between two evaluations of the rules.
INTERVAL = 0.2
_LISTENING = re.compile(r'msg="Listening on" address=\S+:(\d+)')
T = TypeVar("T")


def installed() -> bool:
    """Tell whether this machine has a Prometheus."""
    return shutil.which(PROGRAM) is not None


class Prometheus:
    """A server on a free port; its rules, log and data are in a temporary folder that goes with it."""

    def __init__(self, target: str, settings: AlertThresholds, *, start_timeout: float = 20.0) -> None:
        """Start it and wait until it answers; its first scrape comes some five seconds later.

        Args:
            target: Host and port of the service's metrics.
            settings: Thresholds and windows of the rules.
            start_timeout: Seconds until it answers.

        Raises:
            ChildError: It ended, or was not ready in time.
        """
        self.settings = settings
        self._http = urllib3.PoolManager(retries=False, timeout=5.0)
        self._temporary = tempfile.TemporaryDirectory(prefix="prodpool-prometheus-")
        folder = Path(self._temporary.name)
        self._log = folder / "prometheus.log"
        try:
            self._process = self._start(folder, target)
        except BaseException:
            self._temporary.cleanup()
            raise
        try:
            ends_at = time.monotonic() + start_timeout
            self._port = int(self._until(lambda: _LISTENING.search(self._log.read_text()), ends_at)[1])
            self._until(self._answers, ends_at)
            self.version = str(self._api("status/buildinfo")["version"])
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, target: str) -> subprocess.Popen[bytes]:
        for name, text in render_files("alerts", self.settings).items():
            (folder / name).write_text(text)
        config = folder / "prometheus.json"  # JSON is YAML, too
        config.write_text(json.dumps(_config(folder / "prodpool.rules.yml", target)))
        # It has no stdin that would end it with its parent, as the other children have.
        setpriv = shutil.which("setpriv")
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [
                    *([setpriv, "--pdeathsig", "KILL"] if setpriv else []),
                    str(shutil.which(PROGRAM)),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={LOOPBACK}:0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for the demonstration, which then ends its children in order
            )

    def _until(self, look: Callable[[], T | None], ends_at: float) -> T:
        while not (found := look()):
            if self._process.poll() is not None or time.monotonic() > ends_at:
                said = self._log.read_text().strip().rpartition("\n")[2]
                raise ChildError(f"{PROGRAM} did not come to work; the last line of its log: {said}")
            time.sleep(0.02)
        return found

    @property
    def url(self) -> str:
        """Where its own pages are."""
        return f"http://{LOOPBACK}:{self._port}"

    def _answers(self) -> bool:
        try:
            return self._http.request("GET", f"{self.url}/-/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _api(self, path: str, **fields: str) -> Any:
        """Return the ``data`` of an answer. Source: prometheus.io/docs/prometheus/latest/querying/api/."""
        try:
            answer = self._http.request("GET", f"{self.url}/api/v1/{path}", fields=fields).json()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise ChildError(f"{PROGRAM} does not answer any more: {error}") from error
        if answer["status"] != "success":
            raise ChildError(f"{PROGRAM} refuses {path} {fields}: {answer['error']}")
        return answer["data"]

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the series that an expression yields between two unix times, at every interval."""
        data = self._api(
            "query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=str(INTERVAL)
        )
        found: list[dict[str, Any]] = data["result"]
        return found

    def alert_rules(self) -> dict[str, dict[str, Any]]:
        """Return the alert rules that are loaded, by name, with labels and annotations."""
        rules = [rule for group in self._api("rules", type="alert")["groups"] for rule in group["rules"]]
        return {rule["name"]: rule for rule in rules}

    def wait_for_evaluation(self, timeout: float = 10.0) -> None:
        """Return when every alert rule was evaluated after this call."""
        began = datetime.now(UTC)
        self._until(lambda: self._evaluated_since(began), time.monotonic() + timeout)

    def _evaluated_since(self, began: datetime) -> bool:
        rules = self.alert_rules().values()
        return all(datetime.fromisoformat(rule["lastEvaluation"]) > began for rule in rules)

    def close(self) -> None:
        """End it, and delete what it wrote."""
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._http.clear()
        self._temporary.cleanup()


def _config(rules: Path, target: str) -> dict[str, object]:
    period = f"{round(INTERVAL * 1000)}ms"
    return {
        "global": {"scrape_interval": period, "scrape_timeout": period, "evaluation_interval": period},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": [target]}]}],
    }
