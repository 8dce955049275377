"""The private names of the stdlib's future that others read, and so `PoolFuture` must have."""

from __future__ import annotations

import ast
import asyncio.futures
import concurrent.futures
import inspect
import textwrap
import types
from concurrent.futures import _base

import pytest

from prodpool import PoolFuture

# What PoolFuture provides for the functions below (its module says how).
PROVIDED = frozenset({"_condition", "_state", "_waiters", "_result", "_exception", "_get_snapshot"})
# What they read of futures and loops that are asyncio's own.
ASYNCIO_OWN = frozenset({"_asyncio_future_blocking", "_loop"})


def _functions(module: types.ModuleType) -> list[ast.AST]:
    """Everything of a module that handles futures from outside: all but the future and executor classes."""
    tree = ast.parse(inspect.getsource(module))
    return [node for node in tree.body if getattr(node, "name", "") not in {"Future", "Executor"}]


def _private_reads(nodes: list[ast.AST], *, of_self: bool) -> set[str]:
    """The private attributes that are read or written on variables: on ``self``, or on all others."""
    return {
        node.attr
        for tree in nodes
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id == "self") is of_self
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    }


@pytest.mark.parametrize("module", [_base, asyncio.futures], ids=lambda module: module.__name__)
def test_no_new_private_name_is_read(module: types.ModuleType) -> None:
    """``wait``, ``as_completed`` and ``wrap_future`` read no private name that PoolFuture lacks."""
    imported = {name for name, value in vars(module).items() if isinstance(value, types.ModuleType)}
    reads = _private_reads(_functions(module), of_self=False)
    of_modules = {
        node.attr
        for tree in _functions(module)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported
    }
    assert reads - of_modules - ASYNCIO_OWN <= PROVIDED


def test_the_scan_sees_what_wait_reads() -> None:
    """The scan above finds the three names that ``wait`` is known to read, so an empty set is no proof."""
    assert _private_reads(_functions(_base), of_self=False) >= {"_condition", "_state", "_waiters"}


def test_inherited_methods_find_their_names() -> None:
    """What PoolFuture inherits unchanged reads nothing that a PoolFuture does not have."""
    inherited = [
        ast.parse(textwrap.dedent(inspect.getsource(method)))
        for name, method in vars(concurrent.futures.Future).items()
        if inspect.isfunction(method) and getattr(PoolFuture, name) is method
    ]
    missing = {
        name for name in _private_reads(list(inherited), of_self=True) if not hasattr(PoolFuture, name)
    }
    assert not missing
