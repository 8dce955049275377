"""The benchmarks run; what they measure is read by a person and never asserted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import prodpool
from benchmarks import report
from benchmarks.__main__ import EXPERIMENTS
from benchmarks.handoff import BACKENDS
from benchmarks.sampling import Sample, Series, Spread, interleave

pytestmark = pytest.mark.timeout(180)
# Those that compare no pool over threads with its bare executor.
OTHERS = {name for name in EXPERIMENTS if "processes" in name} | {"dwell", "multiprocess"}
ROOT = Path(report.__file__).parents[1]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run everything at the smallest size; return the figures."""
    figures = tmp_path_factory.mktemp("bench") / "figures.json"
    path = os.pathsep.join([str(ROOT), str(Path(prodpool.__file__).parents[1])])
    subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--json", str(figures)],
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        timeout=170,
    )
    data: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    return data


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.once
def test_every_experiment_has_its_figures(quick: dict[str, Any]) -> None:
    """Every experiment yields rows for the bare executor and the pool, with finite numbers."""
    sides: dict[str, set[str]] = {}
    for row in quick["rows"]:
        sides.setdefault(row["experiment"], set()).add(row["side"])
        assert all(math.isfinite(number) for number in row["value"].values()), row
        assert row["ratio"] is None or all(number > 0 for number in row["ratio"].values()), row
    compared = [names for names in sides.values() if "ThreadPoolExecutor" in names]
    assert len(compared) == len(EXPERIMENTS) - len(OTHERS)
    assert all(len(names) >= 2 for names in compared)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.once
def test_each_kind_of_process_backend_has_its_figures(quick: dict[str, Any]) -> None:
    """Time at depth and one at a time are relative to the same executor without a pool around it."""
    found = {(row["experiment"], row["side"]): row for row in quick["rows"]}
    for backend in BACKENDS:
        wrapped = f"InstrumentedPool({backend.title})"
        for experiment in ("2 processes at depth", "4 processes at depth", "processes one at a time"):
            assert found[experiment, backend.title]["ratio"]["median"] == 1.0
            assert found[experiment, wrapped]["ratio"]["median"] > 0.0
        assert ("error of dwell", wrapped) in found


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.once
def test_targets_are_those_promised(quick: dict[str, Any]) -> None:
    """Time at depth, latency, memory and the watchdog each have a target and a verdict."""
    over_processes = [row for row in quick["rows"] if "process" in row["experiment"] and row["target"]]
    kinds = [next((kind for kind in ("dask", "loky") if kind in row["side"]), "") for row in over_processes]
    at_depth = {
        (kind, row["of"], row["target"])
        for kind, row in zip(kinds, over_processes, strict=True)
        if "at depth" in row["experiment"]
    }
    assert at_depth == {("", "wall", 0.40), ("loky", "wall", 0.20), ("dask", "wall", 1.05)}
    others = {
        (row["experiment"], row["target"]) for row in over_processes if "at depth" not in row["experiment"]
    }
    assert others == {
        ("processes one at a time", 1.0),
        ("processes, 1 MiB and back", 1.1),
        ("processes, tasks of 50 ms", 1.02),
        ("processes, one long in 50", 1.0),
    }
    rest = [row for row in quick["rows"] if row not in over_processes]
    targets = {(row["experiment"], row["of"]): row["target"] for row in rest if row["target"]}
    assert targets.pop(("error of dwell", "p99")) == 5.0
    assert targets.pop(("throughput at depth", "wall")) == 0.80
    assert targets.pop(("one at a time", "wall")) == 1.15
    assert targets.pop(("memory", "tracemalloc")) == targets.pop(("memory", "RSS")) == 1.0
    assert list(targets.values()) == [1.0, 1.0]  # of the watchdog, and of what it writes in multiprocess mode
    assert all(row["met"] in {True, False} for row in quick["rows"] if row["target"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.once
def test_machine_is_described(quick: dict[str, Any]) -> None:
    """The figures name the machine they were taken on."""
    assert all(quick["machine"][key] for key in ("cpu", "cores", "python", "system", "date"))


def test_sides_are_sampled_in_turn() -> None:
    """Every side is sampled once a round, and each round begins with another one."""
    order: list[str] = []

    def side(name: str) -> Sample:
        order.append(name)
        return Sample(cpu=1.0, wall=1.0)

    series = interleave({"a": lambda: side("a"), "b": lambda: side("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [len(one.samples) for one in series.values()] == [3, 3]


def test_ratios_are_paired_by_round() -> None:
    """A drift of the machine that meets both sides of a round leaves the ratio alone."""
    base = Series([Sample(wall=1.0), Sample(wall=10.0), Sample(wall=100.0)])
    mine = Series([Sample(wall=0.5), Sample(wall=5.0), Sample(wall=50.0)])
    assert mine.ratio(base, "wall") == Spread(0.5, 0.5, 0.5)


def test_figures_replace_their_last_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing twice leaves one section, and the text around it as it was."""
    readme = tmp_path / "README.md"
    readme.write_text("# Before\n", encoding="utf-8")
    monkeypatch.setattr(report, "README", readme)
    for median in (1.0, 2.0):
        report.write([report.Row("e", "s", "wall", Spread(median, median, median), "us")], "command")
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Before\n")
    assert text.count("<!-- figures") == 1
    assert "2.00 us" in text
    assert "1.00 us" not in text
