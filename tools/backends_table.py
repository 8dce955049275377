"""Write the tables of backends anew, from what the code itself knows of each: all of it, and the README's.

usage: python -m tools.backends_table [--check]
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import loky
from distributed import Client, LocalCluster

from prodpool.workers.backends import detect_backend
from prodpool.workers.base import Capabilities
from prodpool.workers.processes.process_template import dumps
from prodpool.workers.threads.daemon_executor import DaemonThreadExecutor
from tools.pages import table, write

HEAD = (
    "backend",
    "tasks reach it",
    "functions",
    "at `timeout=`",
    "a worker dies",
    "hangs at the stop deadline",
    "dwell, duration",
    "`dump()`",
)
# What the README tells of them.
SHORT = (0, 3, 4, 5)


class Other:
    """Stands for whatever else has ``submit``."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Never called."""


def row(name: str, can: Capabilities) -> tuple[str, ...]:
    """Say what a backend can do."""
    if can.leased:
        reach, functions = "it lends its threads", "any"
    else:
        ahead = (
            "none ahead"
            if not can.prefetch
            else "two ahead"
            if can.worker_lost_errors
            else "one ahead for all"
        )
        more = ", more if short" if can.prefetch else ""
        reach = f"one for each worker; {ahead}{more}"
        if can.template is not None:
            reach = "one for each worker; more if short, which are taken back from behind a long one"
        by_name = can.dumps is dumps
        functions = "what it carries itself" if can.dumps is None else "of a module" if by_name else "any"
    if can.template is not None:
        dies, still = "only its task is lost", "killed"
    elif can.worker_lost_errors:
        dies, still = "only its tasks are lost", "left to the cluster"
    else:
        dies = "-" if can.leased else "as it says itself"
        still = "left behind" if can.leased else "left to it"
    limit = "told" if can.template is None else "killed"
    exact = can.leased or can.template is not None
    times = (
        "exact"
        if exact
        else "exact on this host, else from the length"
        if can.worker_lost_errors
        else "exact on this host"
    )
    return name, reach, functions, limit, dies, still, times, "stacks" if exact else "no stacks"


def rows() -> list[tuple[str, ...]]:
    """Return the row of each backend."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as threads,
        ProcessPoolExecutor(1) as processes,
        loky.ProcessPoolExecutor(1) as loky_processes,
    ):
        records = {
            "`prodpool.threads()`": detect_backend(DaemonThreadExecutor("table")),
            "`ThreadPoolExecutor`": detect_backend(threads),
            "`ProcessPoolExecutor`, `prodpool.processes()`": detect_backend(processes),
            "loky": detect_backend(loky_processes),
            "dask, `prodpool.dask()`": detect_backend(client.get_executor()),
            "anything else with `submit`": detect_backend(Other()),
        }
    return [row(name, can) for name, can in records.items()]


if __name__ == "__main__":
    found = rows()
    short = [[cells[column] for column in SHORT] for cells in (HEAD, *found)]
    parts = [
        ("docs/reference/backends.md", "backends", table(HEAD, found)),
        ("README.md", "backends", table(short[0], short[1:])),
    ]
    write(parts, "tools/backends_table.py")
