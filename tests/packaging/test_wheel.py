"""The wheel holds what it should, and the tests run against it."""

from __future__ import annotations

import os
import re
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distributions, version
from pathlib import Path

import pytest

import prodpool
from tests.support import ROOT, normal

WHEEL = os.environ.get("PRODPOOL_TESTED_WHEEL", "")
CORE = {"opentelemetry-sdk", "prometheus-client", "pybreaker", "structlog"}
BUNDLE = "prodpool/monitoring/"
needs_wheel = pytest.mark.skipif(not WHEEL, reason="no wheel was built; `make test` builds one")


@pytest.fixture
def wheel() -> zipfile.ZipFile:
    """Open the wheel that the tests run against."""
    return zipfile.ZipFile(WHEEL)


def metadata(wheel: zipfile.ZipFile) -> Message:
    """Read the wheel's METADATA file."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


@needs_wheel
def test_the_installed_package_is_tested() -> None:
    """The package under test comes from site-packages, not from a source tree that happens to be near."""
    assert prodpool.__file__ is not None
    assert Path(prodpool.__file__).is_relative_to(sys.prefix)
    assert not (ROOT / "prodpool").exists()


@needs_wheel
@pytest.mark.once
def test_the_wheel_holds_the_package_alone(wheel: zipfile.ZipFile) -> None:
    """No test, example or tool is installed with the package; its type marker and licence are."""
    names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    info = f"prodpool-{version('prodpool')}.dist-info"
    assert top == {"prodpool", info}
    assert {"prodpool/py.typed", f"{info}/licenses/LICENSE"} <= set(names)
    assert [
        name
        for name in names
        if not name.startswith((info, BUNDLE)) and not name.endswith((".py", "py.typed"))
    ] == []


@needs_wheel
@pytest.mark.once
def test_the_wheel_brings_the_dashboards(wheel: zipfile.ZipFile) -> None:
    """The dashboards come with the package, the same as in the repository."""
    shipped = {name: wheel.read(name) for name in wheel.namelist() if name.startswith(f"{BUNDLE}dashboards/")}
    files = (ROOT / "dashboards").glob("*.json")
    assert shipped == {f"{BUNDLE}dashboards/{file.name}": file.read_bytes() for file in files}


@needs_wheel
@pytest.mark.once
def test_four_core_dependencies(wheel: zipfile.ZipFile) -> None:
    """Without an extra, exactly the four core dependencies are asked for."""
    required = metadata(wheel).get_all("Requires-Dist", [])
    core = {re.split(r"[^\w-]", one)[0] for one in required if "extra ==" not in one}
    assert core == CORE
    assert metadata(wheel)["Requires-Python"] == ">=3.11"


@pytest.mark.once
def test_pins_are_exact_and_name_no_host() -> None:
    """Each line of constraints.txt is a name and one version, or a comment."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+|#[^:]*", line)] == []


@needs_wheel
@pytest.mark.once
def test_what_is_installed_is_what_is_pinned() -> None:
    """Every package of the test environment has the version that constraints.txt says."""
    pins = (line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {normal(name): pin for name, pin in pins}
    # One writes its version with a v in front, which says nothing. Source: PEP 440.
    installed = {normal(one.metadata["Name"]): one.version.removeprefix("v") for one in distributions()}
    ours = {name: found for name, found in installed.items() if name not in {"pip", "setuptools", "prodpool"}}
    assert ours == {name: pinned.get(name) for name in ours}


@pytest.mark.once
def test_every_dependency_is_accounted_for() -> None:
    """Each dependency in pyproject.toml has its row in the tables of decision D1."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {re.split(r"[\[<>=]", one)[0] for one in asked} - {"prodpool"}
    accounts = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text()
    assert [
        name for name in sorted(names) if not re.search(rf"^\|.*\b{name}\b.*\|", accounts, re.MULTILINE)
    ] == []
