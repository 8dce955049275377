"""The layout is the architecture: imports run one way, and a name means one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PACKAGE, ROOT

PAGE = ROOT / "docs" / "explanation" / "architecture.md"

# Each room and module at the top may import those before it.
ORDER = (
    ("text", "version"),
    ("concurrency", "config"),
    ("task",),
    ("errors",),
    ("admission",),
    ("telemetry",),
    ("scheduling", "monitoring"),
    ("execution", "stats"),
    ("workers",),
    ("shutdown",),
    ("engine",),
    ("engine_holder",),
    ("submission",),
    ("lifetime",),
    ("pool",),
    ("factories",),
    ("testing", "cli", "opentelemetry"),
    ("integrations",),
    ("__init__", "__main__"),
)
# The same inside workers/.
WORKERS_ORDER = (
    ("in_worker",),
    ("base", "run_times", "serialization"),
    ("processes",),
    ("handoff", "inline", "threads"),
    ("process_pools", "build", "loop_starter"),
    ("backends",),
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def parts(module: str) -> tuple[str, ...]:
    return tuple(module.split(".")[1:]) or ("__init__",)


def name_of(path: Path) -> str:
    inner = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(inner[:-1] if inner[-1] == "__init__" and len(inner) > 2 else inner)


def rank(order: tuple[tuple[str, ...], ...], room: str) -> int:
    found = [number for number, rooms in enumerate(order) if room in rooms]
    assert found, f"{room} has no place in tests/test_architecture.py: say what it may import"
    return found[0]


def is_typing_only(node: ast.If) -> bool:
    return ast.unparse(node.test) == "TYPE_CHECKING"


def imports(body: list[ast.stmt]) -> Iterator[str]:
    """Yield every module of the package that is imported at run time, in functions too."""
    for statement in body:
        if isinstance(statement, ast.If) and is_typing_only(statement):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "prodpool":
                module = str(node.module)
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    is_module = PACKAGE.parent.joinpath(*inner.split(".")).with_suffix(".py").exists()
                    yield inner if is_module else module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "prodpool")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    """A module imports from its own room and from rooms before it, and from no other."""
    here = parts(name_of(path))
    for module in imports(ast.parse(path.read_text()).body):
        there = parts(module)
        if there[0] == here[0]:
            if here[0] == "workers" and len(here) > 1 and len(there) > 1 and here[1] != there[1]:
                mine, theirs = rank(WORKERS_ORDER, here[1]), rank(WORKERS_ORDER, there[1])
                assert theirs < mine or {here[1], there[1]} <= {"base", "run_times", "serialization"}, module
            continue
        assert rank(ORDER, there[0]) < rank(ORDER, here[0]), f"{name_of(path)} imports {module}"


def test_no_cycle_inside_a_room() -> None:
    """Modules of one room import one another in one direction only."""
    graph = {name_of(path): set(imports(ast.parse(path.read_text()).body)) for path in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*above, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_two_classes_of_one_name() -> None:
    """Whoever reads a class's name knows which one is meant."""
    homes = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].append(name_of(path))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_page_lists_every_room() -> None:
    """The architecture page has a line for each room, each module at the top and nothing that is gone."""
    tree = PAGE.read_text().split("```", 2)[1]
    told = set(re.findall(r"^  (\w+)", tree, re.MULTILINE))
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.is_dir() and any(path.glob("*.py"))) or (path.suffix == ".py" and path.stem != "__init__")
    }
    assert told == there


# Words of an older vocabulary. Each was a metaphor for something that has a usual name.
METAPHORS = re.compile(
    r"\b_?(?:door|roster|seat|courier|bell|desk|ear|ledger|trouble|aside|latch|recipe|supply|beacon|shim|trial)s?\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_word_of_the_old_vocabulary(path: Path) -> None:
    """Names, comments and docstrings say the usual word: submitter, worker, counters, telemetry error."""
    lines = path.read_text().splitlines()
    found = [f"{number}: {line.strip()}" for number, line in enumerate(lines, 1) if METAPHORS.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_size(path: Path) -> None:
    """No module has more than 350 lines, and a function of more than 45 says why, in a comment."""
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            before = lines[(node.decorator_list[0] if node.decorator_list else node).lineno - 2].strip()
            why = before.startswith("#") or "#" in lines[node.lineno - 1]
            assert length <= 45 or why, f"{node.name} has {length} lines: part it, or say why above it"
