"""Find CPython's ``test.test_concurrent_futures`` and put the wrapped executors in its place.

The suite is a module up to 3.11 and a package from 3.12 on. Many builds leave it out; then it is borrowed
from where Debian's libpython3.x-testsuite puts it: that of the same minor version, or else the nearest older
one, since what an older CPython asked of an executor still holds.
"""

from __future__ import annotations

import concurrent.futures.process
import importlib
import os
import re
import sys
import sysconfig
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prodpool.task.remote_traceback import RemoteTraceback
from tests.cpython import wrapped
from tests.cpython.exclusions import BROKEN, INSTEAD

SUITE = "test_concurrent_futures"
_OLDEST = 11


def _places() -> Iterator[Path]:
    yield Path(sysconfig.get_path("stdlib"))
    for minor in range(sys.version_info.minor, _OLDEST - 1, -1):
        for library in ("/usr/lib", "/usr/local/lib"):
            yield Path(library) / f"python3.{minor}"


_SCRIPT_IMPORT = re.compile(
    rf"from (?:concurrent\.futures|test\.{SUITE}[.\w]*) import (?=\w+PoolExecutor|sleep_and_print)"
)
# The stdlib says it in these words; ours is a RuntimeError that says it in others.
_CLOSED = (
    re.compile(rb"prodpool\.errors\.PoolClosedError: .*"),
    b"RuntimeError: cannot schedule new futures",
)


# The mixins by which the suite has a case run on an executor.
EXECUTORS = {
    "ThreadPoolMixin": wrapped.ThreadPoolExecutor,
    "ProcessPoolForkMixin": wrapped.ProcessPoolExecutor,
    "ProcessPoolForkserverMixin": wrapped.ProcessPoolExecutor,
    "ProcessPoolSpawnMixin": wrapped.ProcessPoolExecutor,
}
# It has no such mixin, and runs cases that have one.
_RUNS_OTHERS = "FailingInitializerResourcesTest"


class _Futures(types.ModuleType):
    """``concurrent.futures`` with two classes exchanged."""

    ThreadPoolExecutor = wrapped.ThreadPoolExecutor
    ProcessPoolExecutor = wrapped.ProcessPoolExecutor

    @property
    def process(self) -> types.ModuleType:
        """The module of process pools, with the class exchanged that carries a worker's stack."""
        return _Process("process")

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures, name)


class _Process(types.ModuleType):
    _RemoteTraceback = RemoteTraceback

    def __getattr__(self, name: str) -> Any:
        return getattr(concurrent.futures.process, name)


def locate() -> Path | None:
    """Return the ``test`` folder that holds the suite to run, None without one."""
    for place in _places():
        folder = place / "test"
        if (folder / f"{SUITE}.py").is_file() or (folder / SUITE / "__init__.py").is_file():
            return folder
    return None


def load() -> list[types.ModuleType]:
    """Import the suite's modules, with the wrapped executors in them; empty when there is no suite."""
    folder = make_importable()
    if folder is None:
        return []
    names = [f"test.{SUITE}"]
    names += [f"test.{SUITE}.{path.stem}" for path in sorted((folder / SUITE).glob("test_*.py"))]
    modules = [importlib.import_module(name) for name in names]
    for module in modules:
        _exchange(module)
    return modules


def executor_cases(modules: list[types.ModuleType]) -> Iterator[unittest.TestCase]:
    """Yield every case of the suite that runs on an executor."""
    for module in modules:
        for cls in vars(module).values():
            if _on_an_executor(cls) and cls.__module__ == module.__name__:
                yield from map(cls, unittest.defaultTestLoader.getTestCaseNames(cls))


def future_cases(modules: list[types.ModuleType]) -> Iterator[unittest.TestCase]:
    """Yield every case of the suite about futures as such."""
    for module in modules:
        if cls := vars(module).get("FutureTests"):
            yield from map(cls, unittest.defaultTestLoader.getTestCaseNames(cls))


def case_name(case: unittest.TestCase) -> str:
    """Name a case the way the table of exclusions does: class, dot, method."""
    return ".".join(case.id().rsplit(".", 2)[-2:])


def make_importable() -> Path | None:
    """Have the suite found by imports, in this process; returns what `locate` does."""
    folder = locate()
    if folder is None:
        return None
    try:
        package = importlib.import_module("test")
    except ModuleNotFoundError:
        package = sys.modules["test"] = types.ModuleType("test")
        package.__path__ = []
    # Last in the path: everything but the suite, test.support say, comes from the interpreter's own.
    if str(folder) not in package.__path__:
        package.__path__.append(str(folder))
    return folder


def _on_an_executor(cls: object) -> bool:
    if not (isinstance(cls, type) and issubclass(cls, unittest.TestCase)):
        return False
    return cls.__name__ == _RUNS_OTHERS or any(base.__name__ in EXECUTORS for base in cls.__mro__)


def _exchange(module: types.ModuleType) -> None:
    names = vars(module)
    if "futures" in names:
        names["futures"] = _Futures("futures")
    for mixin in EXECUTORS.keys() & names.keys():
        names[mixin].executor_type = EXECUTORS[mixin]
    if "assert_python_ok" in names:
        names["assert_python_ok"] = _assert_python_ok
    if "BrokenProcessPool" in names:
        names["BrokenProcessPool"] = BROKEN
    if "ExecutorDeadlockTest" in names:
        _expect_instead(names["ExecutorDeadlockTest"])


def _expect_instead(cls: Any) -> None:
    """Have the cases about what does not travel expect the pool's own errors."""
    check = cls._check_crash

    def check_crash(self: Any, error: type[BaseException], *call: Any, **options: Any) -> None:
        check(self, INSTEAD.get(self._testMethodName, error), *call, **options)

    cls._check_crash = check_crash


def _assert_python_ok(flag: str, script: str) -> tuple[int, bytes, bytes]:
    """Run one of the suite's scripts on the wrapped executor."""
    script_helper = importlib.import_module("test.support.script_helper")
    adapted, exchanged = _SCRIPT_IMPORT.subn("from wrapped import ", script)
    assert exchanged, f"a script without the executor's import: {script}"
    # With a variable of our own the child runs neither isolated nor with -E, so that it finds the
    # very prodpool that is tested here.
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    code, out, err = script_helper.assert_python_ok(flag, adapted, PYTHONPATH=path)
    return code, out, _CLOSED[0].sub(_CLOSED[1], err)
