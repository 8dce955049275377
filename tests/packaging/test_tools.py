"""The tools behind `make test` find interpreters, leave the source out of the way and add up."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.once


@pytest.fixture
def run_tests(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load ``tools/run_tests.py``."""
    spec = importlib.util.spec_from_file_location("run_tests", ROOT / "tools" / "run_tests.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_tests", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_an_interpreter_is_found_once(
    run_tests: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PATH and $PYENV_ROOT are searched; there is one of each minor version, and none that does not start."""
    first = run_tests.describe(sys.executable)
    assert first.version == sys.version_info[:3]
    on_path, in_pyenv = tmp_path / "bin", tmp_path / "pyenv" / "versions" / "9.9.9" / "bin"
    for folder, name in ((on_path, "python3.98"), (on_path, "python3.99"), (in_pyenv, "python")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("#!/bin/sh\nexit 1\n" if name == "python3.99" else answers(name))
        (folder / name).chmod(0o755)
    (on_path / "python3.98-config").touch()
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert run_tests.others(first) == [run_tests.Interpreter((3, 98, 0), "/the/python3.98")]


def answers(name: str) -> str:
    """Return a program that says that it is CPython 3.98.0 at a path of that name."""
    return f"#!/bin/sh\necho '[true, [3, 98, 0], \"/the/{name}\"]'\n"


def test_the_stage_has_no_source_tree(
    run_tests: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the tests run in has the tests and pages, and neither the package nor what make has made."""
    repository, stage = tmp_path / "repository", tmp_path / "stage"
    for name in ("prodpool/pool.py", "tests/prodpool/kept.py", ".envs/x", ".venv/x", "README.md"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    monkeypatch.setattr(run_tests, "ROOT", repository)
    run_tests.stage(stage)
    assert sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file()) == [
        "README.md",
        "tests/prodpool/kept.py",
    ]


def test_a_run_that_dies_counts_as_a_failure(
    run_tests: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A pytest that ends without a report, or badly without a failure in it, is one failure."""
    monkeypatch.setattr(run_tests, "REPORTS", tmp_path)
    interpreter, python = run_tests.describe(sys.executable), Path(sys.executable)
    (tmp_path / "test_it.py").write_text("import os\ndef test_dies(): os._exit(3)\ndef test_lives(): pass\n")
    wheel = Path("a.whl")
    assert run_tests.run(interpreter, python, wheel, tmp_path, []) == run_tests.Tally(0, 1, 0)
    lives = ["-k", "lives"]
    assert run_tests.run(interpreter, python, wheel, tmp_path, lives) == run_tests.Tally(1, 0, 0)
    assert run_tests.run(interpreter, python, wheel, tmp_path, lives, live=False) == run_tests.Tally(1, 0, 0)
    nothing = ["-m", "nothing"]
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = nothing: marks no test\n")
    assert run_tests.run(interpreter, python, wheel, tmp_path, nothing) == run_tests.Tally()
    assert str(run_tests.Tally(1, 0, 0) + run_tests.Tally(2, 3, 4)) == "3 passed, 3 failed, 4 skipped"


def test_the_oldest_dependencies_are_the_lower_bounds(run_tests: ModuleType) -> None:
    """`make test-lowest` pins the core dependencies to their lower bounds and leaves theirs open."""
    pins = run_tests.lowest_pins().splitlines()
    core = [pin for pin in pins if pin.startswith(("opentelemetry", "prometheus", "pybreaker", "structlog"))]
    assert len(core) == 4
    assert all("==" in pin for pin in core)
