"""What the commands of the example make of their command lines."""

from __future__ import annotations

import math
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module

import pytest

from examples.webhook_service import customers, demo, service
from tests.support import ROOT

PACKAGE = "examples.webhook_service"
TARGET = "--customer=acme=http://127.0.0.1:9000/hooks/acme"


@pytest.mark.parametrize(
    ("parse", "line"),
    [
        (service.parse_arguments, f"{TARGET} {wrong}")
        for wrong in (
            "--workers 0",
            "--workers many",
            "--queue-capacity -1",
            "--port 65536",
            "--metrics-port -1",
            "--drain-deadline -1",
            "--drain-deadline inf",
            "--delivery-timeout 0",
            "--slow-after nan",
            "--hung-after 0",
            "--breaker-open-for inf",
            "--log-file /no/such/folder/service.log",
            "--span-file /no/such/folder/spans.jsonl",
            "--customer globex",
            "--customer globex=",
            "--customer globex=ftp://127.0.0.1/",
            "--customer globex=http://",
            "--customer glo-bex=http://127.0.0.1/",
        )
    ]
    + [(customers.parse_arguments, "--port 65536"), (demo.parse_arguments, "--keep /dev/null")],
)
def test_a_wrong_argument_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], parse: Callable[[list[str]], object], line: str
) -> None:
    """The message names the option and what it was given, and the exit status is 2."""
    option, _, value = line.removeprefix(TARGET).strip().partition(" ")
    with pytest.raises(SystemExit) as refused:
        parse(shlex.split(line))
    assert refused.value.code == 2
    assert f"argument {option}: " in (said := capsys.readouterr().err)
    assert value in said


def test_a_customer_that_is_named_twice_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Of two URLs for one customer neither is taken silently."""
    with pytest.raises(SystemExit) as refused:
        service.parse_arguments([TARGET, TARGET])
    assert refused.value.code == 2
    assert "argument --customer: 'acme' is named twice" in capsys.readouterr().err


def test_what_makes_sense_is_taken() -> None:
    """The least and the greatest of each option, and customers by name."""
    options = service.parse_arguments(
        shlex.split(
            f"{TARGET} --customer globex=https://example.org/?a=b --workers 1 --queue-capacity 0 --port 65535"
            " --drain-deadline 0 --slow-after 0 --hung-after inf"
        )
    )
    assert dict(options.customer) == {
        "acme": "http://127.0.0.1:9000/hooks/acme",
        "globex": "https://example.org/?a=b",
    }
    assert (options.workers, options.queue_capacity, options.port) == (1, 0, 65535)
    assert (options.drain_deadline, options.slow_after, options.hung_after) == (0.0, 0.0, math.inf)


def _shown() -> list[list[str]]:
    """Return the commands of this package that the README shows."""
    text = (ROOT / "examples" / "webhook_service" / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ ").rstrip(" &"), comments=True) for line in lines]
    return [line for line in words if line[:2] == ["python", "-m"]]


@pytest.mark.parametrize("command", _shown(), ids=lambda command: command[2])
def test_a_command_of_the_readme_is_understood(command: list[str]) -> None:
    """The module is there and takes the options shown."""
    name = command[2].removeprefix(PACKAGE).lstrip(".") or "demo"
    import_module(f"{PACKAGE}.{name}").parse_arguments(command[3:])


@pytest.mark.slow
def test_a_usage_error_comes_before_anything_is_started() -> None:
    """A service with a wrong argument prints its usage and the error alone: no pool, no log, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.webhook_service.service", "--customer", "acme"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].startswith("usage: ")
    assert "'acme'" in done.stderr.splitlines()[-1]
    assert "pool.created" not in done.stderr
