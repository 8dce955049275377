"""Run the tests against the built wheel, on this interpreter or (``--all``) on every CPython found.

Each interpreter gets an environment of its own in ``.envs/`` that holds the wheel, and runs in a copy of the
repository that has no ``prodpool/`` in it: what is tested is what would be installed. The last line printed
is the sum over all runs, alone on its line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ROOT / "build" / "stage"
REPORTS = ROOT / "build" / "reports"
LEFT_OUT = {"prodpool", "build", "dist", ".git", ".venv", ".envs"}
OLDEST = (3, 11)
NOTHING_TO_DO = 5  # what pytest ends with when none of the tests asked for is marked so
DESCRIBE = """
import sys, sysconfig, importlib.util, json
free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
usable = sys.implementation.name == "cpython" and not free_threaded and importlib.util.find_spec("ensurepip")
print(json.dumps([bool(usable), sys.version_info[:3], getattr(sys, "_base_executable", sys.executable)]))
"""


@dataclass(frozen=True)
class Interpreter:
    """A CPython to test on."""

    version: tuple[int, int, int]
    path: str

    @property
    def minor(self) -> str:
        """The version that language and library share, such as ``3.12``."""
        return f"{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class Tally:
    """What a run of pytest came to."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def describe(path: str) -> Interpreter | None:
    """Ask an interpreter what it is; None when it does not start or cannot be used."""
    try:
        done = subprocess.run([path, "-c", DESCRIBE], capture_output=True, text=True, timeout=30, check=True)
        usable, version, base = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    found = Interpreter((version[0], version[1], version[2]), base)
    return found if usable and found.version[:2] >= OLDEST else None


def candidates() -> Iterator[str]:
    """Yield the paths that may be a Python: those on PATH, then those pyenv has."""
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        for path in sorted(Path(folder or ".").glob("python3.*")):
            if re.fullmatch(r"python3\.\d+", path.name):
                yield str(path)
    pyenv = os.environ.get("PYENV_ROOT")
    if pyenv:
        yield from (str(path) for path in sorted(Path(pyenv, "versions").glob("*/bin/python")))


def others(first: Interpreter) -> list[Interpreter]:
    """Return one interpreter for each minor version on this machine except that of ``first``."""
    found: dict[str, Interpreter] = {}
    for path in candidates():
        interpreter = describe(path)
        if interpreter and interpreter.minor != first.minor:
            found.setdefault(interpreter.minor, interpreter)
    return sorted(found.values(), key=lambda one: one.version)


def _constraints() -> list[str]:
    return (ROOT / "constraints.txt").read_text().splitlines()


def lowest_pins() -> str:
    """Turn the lower bounds of the core dependencies into pins."""
    text = (ROOT / "pyproject.toml").read_text()
    bounds = re.search(r"^dependencies = \[(.*?)\]", text, re.DOTALL | re.MULTILINE)
    if bounds is None:
        raise SystemExit("pyproject.toml has no dependencies")
    lowest = [bound.replace(">=", "==") for bound in re.findall(r'"(.*?)"', bounds[1])]
    # What these four bring along has to fit them, so it is not pinned either.
    ours = {re.split("[=<>]", bound)[0].replace("-", "_") for bound in lowest} | {
        "googleapis_common_protos",
        "importlib_metadata",
        "protobuf",
    }
    names = {line: line.split("==")[0].replace("-", "_") for line in _constraints()}
    rest = [
        line for line, name in names.items() if name not in ours and not name.startswith("opentelemetry_")
    ]
    return "\n".join([*rest, *lowest]) + "\n"


def environment(interpreter: Interpreter, wheel: Path, *, extras: str, lowest: bool) -> Path:
    """Return the Python of an environment that holds ``wheel``, making or renewing it where needed."""
    name = f"{interpreter.minor}-lowest" if lowest else interpreter.minor
    folder = ROOT / ".envs" / name
    pins = lowest_pins() if lowest else (ROOT / "constraints.txt").read_text()
    requirements = (ROOT / "pyproject.toml").read_text()
    wanted = {
        "interpreter": f"{interpreter.version} {interpreter.path}",
        "pins": hashlib.sha256((pins + requirements).encode()).hexdigest(),
        "extras": extras,
        "wheel": hashlib.sha256(wheel.read_bytes()).hexdigest(),
    }
    stamp = folder / "made-for.json"
    python = folder / "bin" / "python"
    made = json.loads(stamp.read_text()) if stamp.exists() and python.exists() else {}
    if made == wanted:
        return python
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    stamp.unlink(missing_ok=True)
    if {**made, "wheel": wanted["wheel"]} == wanted:
        subprocess.run([*install, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([interpreter.path, "-m", "venv", str(folder)], check=True)
        constraints = folder / "constraints.txt"
        constraints.write_text(pins)
        subprocess.run([*install, "--constraint", str(constraints), f"{wheel}[{extras}]"], check=True)
    stamp.write_text(json.dumps(wanted))
    return python


def stage(folder: Path) -> None:
    """Copy the repository, without the package's source, to ``folder``, where the tests run."""
    shutil.rmtree(folder, ignore_errors=True)

    def left_out(folder: str, names: list[str]) -> set[str]:
        caches = {name for name in names if name == "__pycache__" or name.endswith("_cache")}
        return caches | (LEFT_OUT & set(names) if Path(folder) == ROOT else set())

    shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)


def run(
    interpreter: Interpreter,
    python: Path,
    wheel: Path,
    folder: Path,
    options: list[str],
    *,
    live: bool = True,
    sample: bool = False,
) -> Tally:
    """Run pytest in ``folder``; one failure is added when it ends badly without naming one.

    The campaigns of tests/faults try every point on the first and the newest interpreter, and with ``sample``
    some of them.

    What it prints is shown at once (``live``) or, of those that run beside another, in one piece at the end.
    """
    report = REPORTS / f"{folder.name}.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-P", "-m", "pytest", "-q", f"--junitxml={report}", *options]
    # Tests that start programs by name get those of this environment.
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    env = {
        **os.environ,
        "PATH": path,
        "PRODPOOL_TESTED_WHEEL": str(wheel),
        "PRODPOOL_WEB": str(ROOT / "build" / "web"),  # too large to be copied to the stage
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if sample:
        env.setdefault("PRODPOOL_FAULTS", "sample")
    head = f"\n== CPython {'.'.join(map(str, interpreter.version))}: {folder.name}\n"
    if live:
        print(head, end="", flush=True)
    began, output = time.monotonic(), None if live else subprocess.PIPE
    done = subprocess.run(command, cwd=folder, env=env, check=False, text=True, stdout=output, stderr=output)
    tally = Tally()
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314  # written by pytest just now
            total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
            failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            tally += Tally(total - failed - skipped, failed, skipped)
    if done.returncode not in (0, NOTHING_TO_DO) and tally.failed == 0:
        tally += Tally(failed=1)
    text = "" if live else f"{head}{done.stdout}{done.stderr}"
    print(f"{text}== CPython {folder.name}: {tally} in {time.monotonic() - began:.0f} s", flush=True)
    return tally


def main() -> int:
    """Test on this interpreter in full, and on the others what may depend on them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="on every CPython found")
    parser.add_argument("--long", action="store_true", help="the longest tests, too, which CI always runs")
    parser.add_argument("--lowest", action="store_true", help="with the oldest dependencies allowed")
    options, pytest_options = parser.parse_known_args()
    if not options.long:
        os.environ.setdefault("PRODPOOL_TESTS", "short")
    first = describe(sys.executable)
    if first is None:
        raise SystemExit(f"{sys.executable} is no CPython of {OLDEST} or newer")
    (wheel,) = (ROOT / "dist").glob("*.whl")
    REPORTS.mkdir(parents=True, exist_ok=True)
    found = [] if options.lowest else others(first)
    rest = found if options.all else []

    def test(interpreter: Interpreter, only: str, *, live: bool) -> Tally:
        folder = STAGES / (interpreter.minor if only.startswith("not") else f"{interpreter.minor}-once")
        stage(folder)
        marked = ["-m", only, *pytest_options]
        python = pythons[interpreter].result()
        between = interpreter in rest[:-1]
        return run(interpreter, python, wheel, folder, marked, live=live, sample=between)

    # Two at a time: what may depend on the interpreter on each of them, and the rest beside the first. Where
    # there is no other, that rest is short, and takes over some of what is not.
    # The newest comes before those between, which take less time (see `run`).
    runs = [(first, "not once"), (first, "once")] + [(one, "not once") for one in reversed(rest)]
    if options.lowest:
        runs = [(first, "not once")]
    elif not rest:
        runs = [(first, "not (once or beside)"), (first, "once or beside")]
    with ThreadPoolExecutor(1) as builder, ThreadPoolExecutor(2) as executor:
        # Those of the others while the first is tested. The services are marked once.
        pythons = {
            one: builder.submit(
                environment,
                one,
                wheel,
                extras="demo,services,test" if one == first else "demo,test",
                lowest=options.lowest,
            )
            for one in [first, *rest]
        }
        tests = [executor.submit(test, *run, live=number == 0) for number, run in enumerate(runs)]
        total = sum((test.result() for test in tests), Tally())
    if untried := [one.minor for one in found if one not in rest]:
        print(f"\n`make test PYTHONS=all` tests on CPython {', '.join(untried)} as well.")
    print(f"\n{total}", flush=True)
    return 0 if total.failed == 0 and total.passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
