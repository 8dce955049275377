"""A real Alertmanager, and whoever is told by it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import yaml

from tests.observe.child import LOOPBACK, Child, get
from tests.support import missing

# With which a pool's trouble of some seconds is what minutes are in production. The numbers are those of
# programs/misbehaving.py; the traffic floor keeps all pools but the one that is to burn from burning.
OPTIONS = {
    "window_scale": 0.01,
    "queue_depth": 600.0,
    "duration": 0.5,
    "dwell": 1.0,
    "oldest_queued": 1.0,
    "buckets": (0.5, 1.0, 2.5),
    "panic_rate": 5.0,
    "utilisation": 0.6,
    "scheduling_delay": 0.003,
    "slo_min_tasks": 1000,
    "runbook_url": "https://wiki.example/pools",
    "dashboard_url": "https://grafana.example",
}


class Receiver:
    """A webhook that remembers every alert it is told of."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told: list[dict[str, Any]] = []  # guarded by _changed
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.take(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver")

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def take(self, alerts: list[dict[str, Any]]) -> None:
        """Remember what was told."""
        with self._changed:
            self._told += alerts
            self._changed.notify_all()

    def told(self, status: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the alerts that were told with that status, the latest of each pool and name.

        What is told of a process has no pool: it is under the name of its job.
        """
        with self._changed:
            return {
                (one["labels"].get("pool", one["labels"]["job"]), one["labels"]["alertname"]): one
                for one in self._told
                if one["status"] == status
            }

    def wait_for(self, status: str, wanted: set[tuple[str, str]], timeout: float) -> None:
        """Return when every pool and alert wanted was told with that status; fail naming what was not."""
        ends_at = time.monotonic() + timeout
        while missing := wanted - set(self.told(status)):
            with self._changed:
                if not self._changed.wait(ends_at - time.monotonic()):
                    raise AssertionError(f"not {status} within {timeout} s: {sorted(missing)}")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Alertmanager:
    """An Alertmanager on a free port, with the exported routes, that tells one webhook."""

    def __init__(self, folder: Path, exported: Path, url: str) -> None:
        self._program = shutil.which("prometheus-alertmanager") or missing(
            "prometheus-alertmanager", "run: apt-get install prometheus-alertmanager"
        )
        self._folder = folder
        config = yaml.safe_load(exported.read_text())
        for receiver in config["receivers"]:
            receiver["webhook_configs"] = [{"url": url}]
        (folder / "alertmanager.json").write_text(json.dumps(config))  # JSON is YAML, too

    def __enter__(self) -> Self:
        command = [
            self._program,
            f"--config.file={self._folder / 'alertmanager.json'}",
            f"--storage.path={self._folder / 'alertmanager'}",
            f"--web.listen-address={LOOPBACK}:0",
            "--cluster.listen-address=",
        ]
        self._child = Child(command, self._folder / "alertmanager.log")
        try:
            self.port = int(self._child.wait_for(r'msg="Listening on" address=\S+:(\d+)')[1])
            self._child.until(lambda: get(self.port, "/-/ready")[0] == 200, "readiness")
        except BaseException:
            self._child.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()

    @property
    def address(self) -> str:
        """Where it listens, as ``host:port``."""
        return f"{LOOPBACK}:{self.port}"
