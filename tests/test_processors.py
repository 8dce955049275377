"""How many processors a process may use, by its affinity and by the quotas of its cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prodpool.config.processors import usable_processors

THERE = len(os.sched_getaffinity(0))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return the file that says which cgroup this process is in."""
    file = tmp_path / "own"
    file.write_text("0::/service/worker\n")
    return file


def test_no_cgroup(tmp_path: Path) -> None:
    """Without any, it is the affinity that counts."""
    assert usable_processors(tmp_path, tmp_path / "missing") == THERE


@pytest.mark.parametrize(
    ("quota", "processors"), [("max 100000", THERE), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_version_2(tmp_path: Path, own: Path, quota: str, processors: int) -> None:
    """A part of a processor counts as one; the quota of a group around ours counts as well."""
    folder = tmp_path / "service"
    folder.mkdir()
    (folder / "cpu.max").write_text(f"{quota}\n")
    assert usable_processors(tmp_path, own) == min(THERE, processors)


@pytest.mark.parametrize(("quota", "processors"), [("-1", THERE), ("100000", 1)])
def test_version_1(tmp_path: Path, quota: str, processors: int) -> None:
    """The older layout has a file for the quota and one for the period."""
    folder = tmp_path / "cpu"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(quota)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert usable_processors(tmp_path, tmp_path / "missing") == processors


def test_the_affinity(tmp_path: Path) -> None:
    """A process that is kept to one processor has one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_processors(tmp_path, tmp_path / "missing") == 1
    finally:
        os.sched_setaffinity(0, before)
