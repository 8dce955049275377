"""What the process pools of this host can do: the standard library's and loky's.

A pool that may do as it likes with such an executor takes it for a template and keeps worker processes of its
own. By its ``submit`` go the calls of an executor that others use as well, or that does something of its own
there. The names with an underscore are private (docs/decisions, D14; guarded by
tests/backends/test_private_names.py).
"""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from prodpool.text import shown
from prodpool.workers.base import Capabilities
from prodpool.workers.in_worker.call import Dumps
from prodpool.workers.processes import process_template

# A pool with max_tasks_per_child may not replace its last worker and then hangs for ever, in every CPython
# from 3.11 on until the releases of summer 2026, which have this method. Source: CPython issue 115634
REPLACES_DEAD_WORKERS = hasattr(ProcessPoolExecutor, "_replace_dead_worker")


def of_process_pool(backend: ProcessPoolExecutor, *, own: bool) -> Capabilities:
    """Return what a ``concurrent.futures.ProcessPoolExecutor`` can do.

    Args:
        backend: The executor.
        own: Whether the pool alone uses it.

    Raises:
        ValueError: It has ``max_tasks_per_child`` and is used by others, on a Python where that deadlocks.
    """
    private: Any = backend
    own = own and process_template.POSSIBLE and _is_plain(backend.submit, ProcessPoolExecutor.submit)
    most_tasks = private._max_tasks_per_child  # noqa: SLF001
    if most_tasks is not None and not REPLACES_DEAD_WORKERS and not own:
        version = ".".join(map(str, sys.version_info[:3]))
        raise ValueError(
            f"backend={shown(backend)} has max_tasks_per_child={most_tasks!r}, with which it may hang for "
            f"ever on Python {version} (CPython issue 115634): leave that out, or use a newer patch "
            "release of Python"
        )
    template = process_template.of_process_pool(backend) if own else None
    return _of_either("ProcessPoolExecutor", backend, process_template.dumps, template)


def of_loky(backend: Any, *, own: bool) -> Capabilities:
    """Return what a ``loky.ProcessPoolExecutor`` can do, reusable or not; see `of_process_pool`."""
    theirs = importlib.import_module("loky.process_executor").ProcessPoolExecutor
    reusable = importlib.import_module("loky.reusable_executor")._ReusablePoolExecutor  # noqa: SLF001
    own = own and process_template.POSSIBLE and _is_plain(backend.submit, theirs.submit, reusable.submit)
    return _of_either(
        "loky", backend, process_template.loky_dumps, process_template.of_loky(backend) if own else None
    )


def _of_either(
    kind: str, backend: Any, dumps: Dumps, template: process_template.ProcessTemplate | None
) -> Capabilities:
    return Capabilities(
        kind=kind,
        max_workers=backend._max_workers,  # noqa: SLF001
        leased=False,
        holds_up_exit=False,
        prefetch=1,
        dumps=dumps,
        result_dumps=dumps,
        processes=_processes,
        template=template,
    )


def _is_plain(submit: Any, *known: Any) -> bool:
    """Tell whether an executor's ``submit`` is one of those, and not a subclass's or a patched one."""
    return getattr(submit, "__func__", None) in known


def _processes(backend: Any) -> list[Any]:
    # Killing them is public from 3.14 on.
    return list((backend._processes or {}).values())  # noqa: SLF001
