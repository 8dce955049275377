"""How many processors this process may use."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_processors(cgroup: Path = _CGROUP, own: Path = _OWN) -> int:
    """Return the processors that this process may use, by its affinity and its cgroup's quota; 1 at least.

    Args:
        cgroup: Where the cgroups are.
        own: The file that says which of them is this process's.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    there = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quotas = [quota for folder in _folders(cgroup, own) if (quota := _quota(folder)) is not None]
    return max(1, min(there, math.ceil(min(quotas, default=math.inf)) if quotas else there))


def _folders(cgroup: Path, own: Path) -> list[Path]:
    """Return the folders of this process's cgroup and of those it is in."""
    lines: list[str] = []
    with suppress(OSError):
        lines = own.read_text().splitlines()
    folders = [cgroup, cgroup / "cpu"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or "cpu" in controllers.split(","):
            root = cgroup / "cpu" if controllers else cgroup
            parts = Path(path.lstrip("/")).parts
            folders += [root.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return folders


def _quota(folder: Path) -> float | None:
    """Return the processors that a cgroup may use; None without a bound."""
    with suppress(OSError, ValueError):
        quota, _, period = (folder / "cpu.max").read_text().partition(" ")  # version 2
        return None if quota == "max" else int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = (folder / "cpu.cfs_quota_us").read_text()  # version 1
        return None if int(quota) <= 0 else int(quota) / int((folder / "cpu.cfs_period_us").read_text())
    return None
