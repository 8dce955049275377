"""A real Prometheus server that scrapes what a test names and answers its queries.

Run with the options that its own package has (Debian's is 2.42); every file is in a folder of the test's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlencode

from tests.observe.child import LOOPBACK, Child, get
from tests.support import missing

Labels = dict[str, str]


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True)
class Sample:
    """One series at one moment."""

    labels: Labels
    value: float


@dataclass(frozen=True)
class Line:
    """One series over time: pairs of unix time in seconds and value."""

    labels: Labels
    points: list[tuple[float, float]]


class Prometheus:
    """A server on a free port of this machine, ready when the ``with`` block begins and gone when it ends.

    Args:
        folder: An empty folder for its configuration, its data and its log.
        targets: For each job the addresses (``host:port``) to scrape.
        rule_files: Rule files to load.
        alertmanager: Address of an Alertmanager to send alerts to.
        interval: Seconds between two scrapes and between two evaluations of the rules.
        labels: For an address the further labels that its series get.
    """

    def __init__(
        self,
        folder: Path,
        targets: Mapping[str, Sequence[str]],
        *,
        rule_files: Sequence[Path] = (),
        alertmanager: str | None = None,
        interval: float = 1.0,
        labels: Mapping[str, Labels] | None = None,
    ) -> None:
        program = shutil.which("prometheus") or missing("prometheus", "run: apt-get install prometheus")
        self.interval = interval
        self._folder = folder
        config = folder / "prometheus.json"  # JSON is YAML, too
        config.write_text(json.dumps(_config(targets, rule_files, alertmanager, interval, labels or {})))
        self._command = [
            program,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:0",
            "--enable-feature=exemplar-storage",
            "--rules.alert.resend-delay=1s",
        ]

    def __enter__(self) -> Self:
        self._child = Child(self._command, self._folder / "prometheus.log")
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

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._child.pid

    def query(self, expr: str, at: float | None = None) -> list[Sample]:
        """Evaluate an expression that yields a vector or a number, now or ``at`` a unix time in seconds.

        Raises:
            QueryError: It does not parse or cannot be evaluated.
        """
        data = self.api("query", query=expr, **({} if at is None else {"time": at}))
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in data["result"]]

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[Line]:
        """Evaluate an expression every ``step`` seconds between two unix times.

        Raises:
            QueryError: It does not parse or cannot be evaluated.
        """
        data = self.api("query_range", query=expr, start=start, end=end, step=step)
        return [
            Line(one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in data["result"]
        ]

    def exemplars(self, expr: str, start: float, end: float) -> list[dict[str, Any]]:
        """Return the exemplars of the series that an expression selects."""
        return cast("list[dict[str, Any]]", self.api("query_exemplars", query=expr, start=start, end=end))

    def series(self, *match: str) -> list[Labels]:
        """Return the label sets, ``__name__`` included, of the series that match any of the selectors."""
        return cast("list[Labels]", self.api("series", **{"match[]": list(match)}))

    def label_values(self, label: str, *match: str) -> list[str]:
        """Return the values of a label, among the series that match if selectors are given."""
        return cast("list[str]", self.api(f"label/{label}/values", **{"match[]": list(match)}))

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule that is loaded, with its state and health."""
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing."""
        return cast("list[dict[str, Any]]", self.api("alerts")["alerts"])

    def wait_for(self, expr: str, timeout: float = 30.0) -> list[Sample]:
        """Return what an expression yields, as soon as it yields anything.

        So ``up == 2`` would wait in vain, and ``count(up == 1) == 2`` until two targets were scraped.
        """
        return self._child.until(lambda: self.query(expr), f"answer to {expr}", timeout)

    def wait_for_scrapes(self, count: int = 1) -> None:
        """Return when every target was scraped ``count`` more times from now on."""
        begun = time.time()
        while count:
            self.wait_for(f"min(timestamp(up)) > {begun:.3f}")
            begun, count = time.time(), count - 1

    def api(self, path: str, **params: object) -> Any:
        """Return the ``data`` of an answer of the HTTP API.

        Source: prometheus.io/docs/prometheus/latest/querying/api/
        """
        status, body = get(self.port, f"/api/v1/{path}?{urlencode(params, doseq=True)}")
        answer = json.loads(body) if body else {"status": "error", "error": f"no answer ({status})"}
        if answer["status"] != "success":
            raise QueryError(f"{answer['error']}: {params or path}")
        return answer["data"]


def _config(
    targets: Mapping[str, Sequence[str]],
    rule_files: Sequence[Path],
    alertmanager: str | None,
    interval: float,
    labels: Mapping[str, Labels],
) -> dict[str, object]:
    period = f"{round(interval * 1000)}ms"
    config: dict[str, object] = {
        "global": {"scrape_interval": period, "scrape_timeout": period, "evaluation_interval": period},
        "rule_files": [str(path.resolve()) for path in rule_files],
        "storage": {"exemplars": {"max_exemplars": 10_000}},
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [one], "labels": labels.get(one, {})} for one in addresses],
            }
            for job, addresses in targets.items()
        ],
    }
    if alertmanager is not None:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return config
