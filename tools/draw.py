"""Draw a dashboard as a picture: from its JSON and live answers, with Grafana's UI library in a browser.

It is not Grafana that draws, but the components Grafana is made of; heatmaps and state timelines, which are
not among those published, are drawn by ``tools/web/drawn.tsx``. What it needs is set up by ``make web``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.dashboards.boards import Asked, View, board, variables
from tests.dashboards.web import SOURCE, WEB
from tests.observe.prometheus import Prometheus

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEAD, CELL = 1600, 64, 38
# Of virtual time, in which a browser without a window waits for timers at once.
PATIENCE = 20_000
PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="page.css">
<body style="margin:0"><div id="page"></div>
<script>const PAGE = {data}</script><script src="page.js"></script>
"""


class DrawingError(Exception):
    """The browser or the page failed; the message is what it said."""


@dataclass(frozen=True)
class Drawn:
    """A picture that was taken.

    Attributes:
        panels: How many panels it shows.
        empty: How many of them had no data.
        blank: How many of them nothing was painted in, which none should be.
    """

    panels: int
    empty: int
    blank: int


def bundle(folder: Path) -> None:
    """Put the page's program into ``folder``."""
    loaders = {"woff": "dataurl", "woff2": "dataurl", "svg": "dataurl", "ttf": "empty"}
    command = [
        str(WEB / "node_modules" / ".bin" / "esbuild"),
        str(SOURCE / "page.tsx"),
        "--bundle",
        "--minify",
        "--jsx=automatic",
        "--log-level=error",
        '--define:process.env.NODE_ENV="production"',
        f"--outdir={folder}",
        *(f"--loader:.{ending}={loader}" for ending, loader in loaders.items()),
    ]
    # esbuild's own start script is a program for Node.js, which `make web` puts there, too.
    path = os.pathsep.join([str(WEB / "bin"), os.environ.get("PATH", os.defpath)])
    env = {**os.environ, "PATH": path, "NODE_PATH": str(WEB / "node_modules")}
    subprocess.run(command, env=env, check=True, timeout=120)


def picture(page: Mapping[str, Any], bundled: Path, target: Path) -> Drawn:
    """Have ``page`` drawn in a browser with the program in ``bundled``; write it to ``target``, a PNG.

    Raises:
        DrawingError: A panel could not be drawn, or the browser did not come that far.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    data = json.dumps(page).replace("</", "<\\/")
    (bundled / "page.html").write_text(PAGE.replace("{data}", data))
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in page["panels"])
    with tempfile.TemporaryDirectory() as profile:
        command = [
            chromium,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--hide-scrollbars", "--enable-logging=stderr"),
            f"--user-data-dir={profile}",
            f"--window-size={WIDTH},{HEAD + bottom * CELL}",
            f"--virtual-time-budget={PATIENCE}",
            f"--screenshot={target}",
            (bundled / "page.html").as_uri(),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    said = "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
    drawn = re.search(r"DRAWN (\d+) EMPTY (\d+) BLANK (\d+)", said)
    if done.returncode != 0 or drawn is None or "FAILED" in said or "Uncaught" in said:
        raise DrawingError(f"status {done.returncode}\n{said or done.stderr}")
    return Drawn(int(drawn[1]), int(drawn[2]), int(drawn[3]))


def page(prometheus: Prometheus, file: str, view: View, end: float) -> dict[str, Any]:
    """Ask Prometheus for all that a dashboard shows of the time until ``end``, a unix time in seconds."""
    chosen = {
        one["label"]: view.chosen.get(name, one["query"] if one["type"] == "textbox" else "All")
        for name, one in variables(file).items()
        if "label" in one
    }
    chosen.update({"Data source": "prometheus", "Objective": variables(file)["slo"]["current"]["value"]})
    start = end - view.seconds
    return {
        "title": board(file)["title"],
        "variables": {name: value for name, value in chosen.items() if isinstance(value, str)},
        "panels": [
            _answered(prometheus, panel, file, seen, end) for panel, seen in _laid_out(prometheus, file, view)
        ],
        "from": start,
        "to": end,
        "step": view.interval,
    }


def _laid_out(prometheus: Prometheus, file: str, view: View) -> Iterator[tuple[dict[str, Any], View]]:
    """Yield the panels in their places, the rows that are repeated once for each value of their variable."""
    rows: list[list[dict[str, Any]]] = []
    for panel in board(file)["panels"]:
        if panel["type"] == "row":
            rows.append([])
        rows[-1].append(panel)
    top = 0
    for row in rows:
        repeat = row[0].get("repeat")
        values = prometheus.label_values(repeat, "workerpool_info") if repeat else [""]
        first = row[0]["gridPos"]["y"]
        for value in values:
            chosen: dict[str, str | list[str]] = dict(view.chosen)
            if repeat:
                chosen[repeat] = [value]
            seen = View(chosen, view.seconds, view.points)
            for panel in row:
                at = {**panel["gridPos"], "y": panel["gridPos"]["y"] - first + top}
                title = seen.expand(file, panel["title"].replace(f"${repeat}", value))
                yield {**panel, "title": title, "gridPos": at}, seen
            top += max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in row) - first


def _answered(
    prometheus: Prometheus, panel: dict[str, Any], file: str, view: View, end: float
) -> dict[str, Any]:
    answers: list[dict[str, Any]] = []
    for target in panel.get("targets", []):
        one = Asked(file, panel["id"], panel["title"], target["expr"], bool(target["instant"]))
        expr, legend = view.expand(file, one.expr), view.expand(file, target["legendFormat"])
        if one.now:
            series = [(found.labels, [(end, found.value)]) for found in prometheus.query(expr, end)]
        else:
            lines = prometheus.query_range(expr, end - view.seconds, end, view.interval)
            series = [(line.labels, line.points) for line in lines]
        answers += [
            {"refId": target["refId"], "legend": legend, "labels": labels, "points": points}
            for labels, points in series
        ]
    kept = ("id", "type", "title", "gridPos", "options", "fieldConfig", "transformations")
    return {**{key: panel[key] for key in kept if key in panel}, "answers": answers}
