"""What CPython asks of an executor, asked of the pool."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cpython import runner, suite
from tests.cpython.exclusions import EXCLUSIONS, IN_TIME, exclusions_of
from tests.support import ROOT, missing

CASES = {suite.case_name(case): case for case in suite.executor_cases(suite.load())}
# Each of them is a process that sleeps for most of its time.
CLASSES_AT_ONCE = 4

# The first test to want an outcome waits for all of them, each of which ends by itself if it hangs.
pytestmark = pytest.mark.timeout(3 * runner.TOO_LONG)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of the cases of one class, and how its process ended."""

    of: dict[str, dict[str, Any]]
    status: int
    stderr: str


def run_class(cases: list[str], results: Path) -> Outcomes:
    """Run cases in a process of their own, in which warnings are errors as they are here."""
    # With a variable of our own rather than -P: a worker process has to find the same modules.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    command = [sys.executable, "-W", "error", "-m", "tests.cpython.runner", str(results), *cases]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = results.read_text().splitlines() if results.exists() else []
    outcomes = [json.loads(line) for line in lines]
    return Outcomes({outcome["name"]: outcome for outcome in outcomes}, done.returncode, done.stderr)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcomes]:
    """Run every case that is selected, several classes at a time."""
    items: list[Any] = request.session.items
    selected = sorted(
        item.callspec.params["name"]
        for item in items
        if item.path == Path(__file__) and item.originalname == test_case.__name__
    )
    classes = {name: list(cases) for name, cases in itertools.groupby(selected, _class_of)}
    folder = tmp_path_factory.mktemp("cpython")
    # Those that sleep for longest come first.
    order = sorted(classes, key=lambda name: "Wait" not in name)
    with ThreadPoolExecutor(CLASSES_AT_ONCE) as executor:
        came = executor.map(lambda name: run_class(classes[name], folder / name), order)
        outcomes = dict(zip(order, came, strict=True))
    for name in selected:
        of = outcomes[_class_of(name)].of
        if name.rpartition(".")[2] in IN_TIME and name in of and of[name]["errors"]:
            # Once more, with nothing beside it.
            of.update(run_class([name], folder / name).of)
    return outcomes


def _class_of(name: str) -> str:
    return name.partition(".")[0]


def _cases() -> Iterator[Any]:
    for name in CASES:
        if not any(exclusions_of(name)):
            # What a spawned process does differently, it does so on every CPython.
            yield pytest.param(name, marks=[pytest.mark.once] if "Spawn" in name else [])


def test_suite_is_there() -> None:
    """CPython's executor tests are found, and more of them run than are left out."""
    if not CASES:
        version = f"libpython3.{sys.version_info.minor}-testsuite"
        missing(f"CPython's {suite.SUITE}", f"run: apt-get install {version}")
    left_out = [name for name in CASES if any(exclusions_of(name))]
    assert len(CASES) > 10 * len(left_out)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_cases()))
def test_case(name: str, outcomes: dict[str, Outcomes]) -> None:
    """The pool passes this case of CPython's, and no thread or process outlives it."""
    came = outcomes[_class_of(name)]
    outcome = came.of.get(name)
    assert outcome is not None, came.stderr
    for reason in outcome["skipped"]:
        pytest.skip(reason)
    assert outcome["run"] == 1
    assert not outcome["errors"], "\n".join(outcome["errors"])
    assert not outcome["left_behind"], f"a thread or a child process was left behind: {came.stderr}"
    assert came.status == 0, came.stderr


@pytest.mark.parametrize("pattern", EXCLUSIONS)
def test_exclusions_hold(pattern: str) -> None:
    """A case that is left out does read what is given as the reason; the guide says the rest."""
    exclusion = EXCLUSIONS[pattern]
    matching = [name for name in CASES if exclusion in exclusions_of(name)]
    if not matching:
        pytest.skip("the suite of another version has it")
    for name in matching:
        method = getattr(type(CASES[name]), name.rpartition(".")[2])
        assert exclusion.reads in inspect.getsource(method), name
    if exclusion.documented is not None:
        guide = " ".join((ROOT / "docs" / "guides" / "worker-processes.md").read_text().split())
        assert exclusion.documented in guide
