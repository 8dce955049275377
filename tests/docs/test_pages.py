"""What the pages tell newcomers is executed."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, missing

# The site takes in the runbook and the benchmarks as well, whose blocks are tested where they are made.
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
)
FENCE = re.compile(r"^```(?P<language>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
# What the extra "services" brings along.
OF_SERVICES = re.compile(
    r"^(?:from|import) (?:celery|django|fastapi|flask|grpc|prodpool\.integrations|redis|sentry_sdk)\b",
    re.MULTILINE,
)
# Only read: what a program prints, and queries (whose metrics are checked below).
READ = {"text", "promql"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``output`` is the ``text`` block that comes next, if one does."""

    page: str
    number: int
    language: str
    text: str
    output: str | None

    def __str__(self) -> str:
        return f"{self.page}-{self.number}".replace("/", ".")


def blocks() -> list[Block]:
    """Return the fenced blocks of all pages, in order."""
    found: list[Block] = []
    for page in PAGES:
        text = (ROOT / page).read_text()
        fences = list(FENCE.finditer(text))
        assert len(re.findall("^```", text, re.MULTILINE)) == 2 * len(fences), (
            f"{page}: a fence is not closed"
        )
        for number, fence in enumerate(fences, start=1):
            language = fence["language"].split(maxsplit=1)
            follower = fences[number] if number < len(fences) else None
            output = follower["text"] if follower and follower["language"] == "text" else None
            found.append(Block(page, number, language[0] if language else "", fence["text"], output))
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Return every command that a page shows, in a block or as `make something`, with its page."""
    shown = [
        (block.page, shlex.split(line, comments=True))
        for block in blocks()
        if block.language in {"sh", "console"}
        for line in block.text.splitlines()
    ]
    for page in PAGES:
        prose = FENCE.sub("", (ROOT / page).read_text())
        shown += [(page, inline.split()) for inline in re.findall(r"`(make [a-z-]+)`", prose)]
    return [(page, command) for page, command in shown if command]


@pytest.mark.once
def test_a_block_is_executed_or_only_read() -> None:
    """Every block is a program, a command, the output of one, a query or a directive of the site's."""
    executed = {"python", "sh", "console"}
    left = [
        f"{block}: {block.language or 'without a language'}"
        for block in blocks()
        if block.language not in executed | READ and not re.fullmatch(r"\{[\w-]+\}", block.language)
    ]
    assert left == []


EXAMPLES = [block for block in blocks() if block.language == "python"]


@pytest.mark.parametrize("block", [one for one in EXAMPLES if one.page == "CONTRIBUTING.md"], ids=str)
def test_an_example_of_a_test_passes(block: Block, tmp_path: Path) -> None:
    """The example passes beside the tests: ``tests/conftest.py`` is all it needs."""
    program = tmp_path / "test_example.py"
    program.write_text(block.text)
    options = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(tmp_path), str(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def programs() -> list[Any]:
    """Return the programs; those of what is installed for one interpreter only run there."""
    return [
        pytest.param(block, marks=pytest.mark.once if OF_SERVICES.search(block.text) else ())
        for block in EXAMPLES
        if block.page != "CONTRIBUTING.md"
    ]


@pytest.mark.parametrize("block", programs(), ids=str)
def test_a_program_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    """A reader who pastes the program gets the output shown (where one is), no warning, and status 0."""
    program = tmp_path / "program.py"
    program.write_text(block.text)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    if block.output is not None:
        same = doctest.OutputChecker().check_output(block.output, done.stdout, doctest.ELLIPSIS)
        assert same, f"the page shows\n{block.output}\nthe program printed\n{done.stdout}"


@pytest.mark.once
@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: " ".join(value).replace("/", "."))
def test_a_command_exists(page: str, command: list[str], tmp_path: Path) -> None:
    """A command shown is a target of the Makefile, a tool that it sets up, or `prodpool`, which is run."""
    match command:
        case ["make", *targets]:
            make = shutil.which("make") or missing("make", "run: apt-get install make")
            subprocess.run([make, "-n", *targets], cwd=ROOT, check=True, capture_output=True, timeout=30)
        case [".venv/bin/pytest", *options]:
            collect = [sys.executable, "-P", "-m", "pytest", "--collect-only", *options]
            subprocess.run(collect, cwd=ROOT, check=True, capture_output=True, timeout=60)
        case ["prodpool", "postmortem", "--prometheus", _, *options]:
            command = [sys.executable, "-P", "-m", "prodpool", "postmortem", *options]
            command += ["--prometheus", "http://127.0.0.1:9"]
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
            )
            # It understands everything, and then there is no Prometheus.
            assert "http://127.0.0.1:9 cannot be asked" in done.stderr, done.stderr
        case ["prodpool", *options]:
            prodpool = [sys.executable, "-P", "-W", "error", "-m", "prodpool", *options]
            subprocess.run(prodpool, cwd=tmp_path, check=True, capture_output=True, timeout=30)
        case _:
            pytest.fail(f"{page} shows {shlex.join(command)!r}, which no test executes")


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES)
def test_a_file_that_a_page_names_is_there(page: str) -> None:
    """A relative link leads to a file of the repository."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    folder = (ROOT / page).parent
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.once
def test_a_metric_that_a_page_names_is_exported() -> None:
    """Every `workerpool_...` in a page is a metric of the reference, or a series of one of its histograms."""
    reference = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    exported = set(re.findall(r"^\| `(workerpool_\w+)`", reference, re.MULTILINE))
    series = {f"{name}_{ending}" for name in exported for ending in ("bucket", "sum", "count")}
    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"\bworkerpool_[a-z_]+[a-z]\b", (ROOT / page).read_text())
    }
    assert exported
    assert {one for one in named if one[1] not in exported | series} == set()


@pytest.mark.once
def test_the_readme_is_short() -> None:
    """The README has 120 lines at most, none of them wider than 100 characters."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 100] == []
