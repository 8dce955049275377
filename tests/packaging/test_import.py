"""What importing the package brings along, and what it makes public."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from types import ModuleType

import pytest

import prodpool
from tests.support import normal

IMPORT = """
import sys

class Absent:
    allowed = set(sys.argv[1:])

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in self.allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"{name} is not among the core dependencies", name=name)

sys.meta_path.insert(0, Absent())
import prodpool
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def core() -> set[str]:
    """Return the packages that an install without extras brings along, with all that they require."""
    wanted, found = ["prodpool"], set[str]()
    while wanted:
        name = normal(wanted.pop())
        if name not in found:
            found.add(name)
            try:
                needs = requires(name) or []
            except PackageNotFoundError:  # asked for on other versions of Python only
                continue
            wanted += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    return found


def core_modules() -> list[str]:
    """Return the top-level modules of the core packages."""
    packages = core()
    modules = {
        module
        for module, names in packages_distributions().items()
        if packages & {normal(name) for name in names}
    }
    return sorted(modules | {"prodpool"})  # which an editable install does not list


def test_the_core_dependencies_are_enough() -> None:
    """``import prodpool`` works in a fresh process that can import nothing but the core packages."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT, *core_modules()],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_no_optional_part_is_imported() -> None:
    """With everything installed, prodpool imports no package of an extra."""
    # structlog and pybreaker themselves import rich and redis where they find them.
    program = (
        "import sys, opentelemetry.sdk.trace, prometheus_client, pybreaker, structlog\n"
        "before = set(sys.modules)\n"
        "import prodpool\n"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=30
    )
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert imported & {"rich", "httpx", "urllib3", "dask", "distributed", "loky", "redis"} == set()


def test_public_names_are_those_listed() -> None:
    """``__all__`` is exactly what the package makes public, sorted and without repetition."""
    public = {
        name
        for name, value in vars(prodpool).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name != "annotations"
    }
    assert set(prodpool.__all__) == public
    assert len(set(prodpool.__all__)) == len(prodpool.__all__)


# Aliases of types can have no docstring.
ALIASES = {"Around", "BackendFactory", "OnHangExit", "Overload", "TaskContext"}


@pytest.mark.parametrize("name", prodpool.__all__)
def test_a_public_name_is_described(name: str) -> None:
    """Every public class and function, and every public method of theirs, has a docstring."""
    value = getattr(prodpool, name)
    if name in ALIASES:
        return
    assert inspect.getdoc(value)
    if inspect.isclass(value):
        own = [
            (member, getattr(value, member))
            for member, found in vars(value).items()
            if not member.startswith("_") and (inspect.isfunction(found) or isinstance(found, property))
        ]
        assert [member for member, found in own if not inspect.getdoc(found)] == []


def test_types_are_shipped() -> None:
    """Type checkers find the marker that says that the package has its own types. Source: PEP 561."""
    assert prodpool.__file__ is not None
    assert Path(prodpool.__file__).with_name("py.typed").exists()
