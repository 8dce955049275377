"""Pools in the cells of a real notebook, run by a real kernel."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.waiting import PATIENCE
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

# The first program of the README that shows what it prints, and that.
TOUR = re.findall(
    r"^```python\n([^`]*)```\n+```text\n([^`]*)```", (ROOT / "README.md").read_text(), re.MULTILINE
)[0]
# Each cell, and what it prints.
CELLS = [
    *([TOUR] * 2),  # a cell is run again after a change
    (
        """
from prometheus_client import REGISTRY
print(REGISTRY.get_sample_value("workerpool_submitted_total", {"pool": "webhook_delivery"}))
""",
        "12.0",
    ),
    (
        """
import logging, sys, time
logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
with InstrumentedPool(ThreadPoolExecutor(1), name="blocking", queue_capacity=0, overload="block") as pool:
    futures = [pool.submit(time.sleep, 0.05) for _ in range(3)]
    print(pool.submit_wait(pow, 2, 3).result(), pool.wait_idle(), all(each.done() for each in futures))
    pool.submit(time.sleep, 0.05)
pool = InstrumentedPool(ThreadPoolExecutor(1), name="caller", queue_capacity=0, overload="caller_runs")
pool.submit(time.sleep, 0.05)
print(pool.submit(threading.get_ident).result() == threading.get_ident(), pool.stop().drained)
""",
        "8 True True\nTrue True",
    ),
    (
        """
async with InstrumentedPool(ThreadPoolExecutor(1), name="awaited") as pool:
    print(await pool.run(pow, 2, 10))
""",
        "1024",
    ),
    (
        """
import asyncio

async def block():
    try:
        pool.submit_wait(int)
    except RuntimeError as error:
        print(error)

with InstrumentedPool(ThreadPoolExecutor(1), name="loop") as pool, ThreadPoolExecutor(1) as threads:
    threads.submit(asyncio.run, block()).result()
""",
        "pool 'loop' would block the event loop of this thread until there is a slot: ...",
    ),
    (
        """
import prodpool

def square(number):
    return number * number

logging.disable()
with prodpool.processes(name="processes", max_workers=1) as pool:
    print(pool.submit(pow, 3, 2).result(), pool.submit(square, 3).exception())
""",
        "9 task 'square' of pool 'processes': ... loky...",
    ),
    (
        """
import loky
with InstrumentedPool(loky.ProcessPoolExecutor(1), name="loky") as pool:
    print(pool.submit(square, 3).result())
""",
        "9",
    ),
]


def printed(cell: nbformat.NotebookNode) -> str:
    """Return what a cell has printed, on whichever stream."""
    return "".join(output["text"] for output in cell.outputs)


def test_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells may block, be run again and await. Functions of a notebook run in worker processes of loky's."""
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source, _ in CELLS])  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook,
        timeout=int(PATIENCE),
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    for (source, expected), cell in zip(CELLS, notebook.cells, strict=True):
        same = doctest.OutputChecker().check_output(f"{expected.rstrip()}\n", printed(cell), doctest.ELLIPSIS)
        assert same, f"{source}\nprinted\n{printed(cell)}\ninstead of\n{expected}"
