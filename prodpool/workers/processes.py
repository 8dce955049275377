"""What the process pools of this host can do: the standard library's and loky's.

The names with an underscore are private, and the only places where these things are said or found
(docs/decisions.md, D14 and D15; guarded by tests/backends/test_private_names.py).
"""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from prodpool.workers.base import Capabilities
from prodpool.workers.packing import standard_dumps

# A pool with max_tasks_per_child may not replace its last worker and then hangs for ever, in every CPython
# from 3.11 on until the releases of summer 2026, which have this method. Source: CPython issue 115634
MENDED = hasattr(ProcessPoolExecutor, "_replace_dead_worker")

# Seconds that an idle worker is kept from whoever else uses the backend.
LINGER = 0.02


def of_process_pool(backend: ProcessPoolExecutor) -> Capabilities:
    """Return what a ``concurrent.futures.ProcessPoolExecutor`` can do.

    Raises:
        ValueError: It has ``max_tasks_per_child``, on a Python where that deadlocks.
    """
    private: Any = backend
    most_tasks = private._max_tasks_per_child  # noqa: SLF001
    if most_tasks is not None and not MENDED:
        version = ".".join(map(str, sys.version_info[:3]))
        raise ValueError(
            f"backend={backend!r} has max_tasks_per_child={most_tasks!r}, with which it may hang for ever on "
            f"Python {version} (CPython issue 115634): leave that out, or use a newer patch release of Python"
        )
    return Capabilities(
        kind="ProcessPoolExecutor",
        max_workers=private._max_workers,  # noqa: SLF001
        leased=False,
        holds_up_exit=False,
        # One that counts its workers' tasks is handed them one by one.
        linger=LINGER if most_tasks is None else 0.0,
        prefetch=1,
        same_host=True,
        dumps=standard_dumps,
        processes=_processes,
        single=_single_process_pool,
    )


def of_loky(backend: Any) -> Capabilities:
    """Return what a ``loky.ProcessPoolExecutor``, reusable or not, can do."""
    return Capabilities(
        kind="loky",
        max_workers=backend._max_workers,  # noqa: SLF001
        leased=False,
        holds_up_exit=False,
        linger=LINGER,
        prefetch=1,
        same_host=True,
        dumps=importlib.import_module("cloudpickle").dumps,  # loky itself needs it
        processes=_processes,
        single=_single_loky,
    )


def _processes(backend: Any) -> list[Any]:
    # Killing them is public from 3.14 on.
    return list((backend._processes or {}).values())  # noqa: SLF001


def _single_process_pool(backend: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1,
        mp_context=backend._mp_context,  # noqa: SLF001
        initializer=backend._initializer,  # noqa: SLF001
        initargs=backend._initargs,  # noqa: SLF001
    )


def _single_loky(backend: Any) -> Any:
    return importlib.import_module("loky").ProcessPoolExecutor(
        1,
        timeout=backend._timeout,  # noqa: SLF001
        context=backend._context,  # noqa: SLF001
        initializer=backend._initializer,  # noqa: SLF001
        initargs=backend._initargs,  # noqa: SLF001
        env=backend._env,  # noqa: SLF001
    )
