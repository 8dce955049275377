"""What is public: named in __all__, described, and in the shape of the standard library's."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import types
import typing
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from enum import Enum

import pytest

import prodpool
import prodpool.opentelemetry
import prodpool.testing
from prodpool import InstrumentedPool, PoolFuture, PoolView
from prodpool.config.exception_classes import DEFAULT_PANICS
from prodpool.config.settings import DEFAULT_BUCKETS, PoolSettings


def own_members(thing: type) -> dict[str, typing.Any]:
    """Return what a class defines or has from a base class of this package."""
    bases = [each for each in reversed(thing.__mro__) if each.__module__.startswith("prodpool")]
    return {name: value for each in bases for name, value in vars(each).items()}


def public_objects() -> Iterator[tuple[str, object]]:
    """Yield everything that a user can reach: the public names and the public members of their classes."""
    for name in prodpool.__all__:
        thing = getattr(prodpool, name)
        yield name, thing
        if isinstance(thing, type) and not issubclass(thing, Enum):
            for member, value in own_members(thing).items():
                if not member.startswith("_") and isinstance(
                    value, types.FunctionType | classmethod | staticmethod | property
                ):
                    yield f"{name}.{member}", value


PUBLIC = dict(public_objects())
# Names for annotations that are no class: the reference describes them, for they can have no docstring.
ALIASES = {"Around", "BackendFactory", "OnHangExit", "Overload", "TaskContext"}


def test_all_is_all() -> None:
    """Every name of __all__ is there, in order, and nothing else that is public but modules."""
    there = {
        name
        for name, value in vars(prodpool).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert there == set(prodpool.__all__)
    assert list(prodpool.__all__) == sorted(prodpool.__all__)


def test_the_walk_goes_into_classes() -> None:
    """The walk finds methods and properties, so that the tests below look at them."""
    assert {"InstrumentedPool.submit", "InstrumentedPool.name", "PoolStats.offered", "threads"} <= set(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - ALIASES))
def test_everything_is_described(name: str) -> None:
    """Each public function, class, method and property begins with one sentence about itself."""
    doc = vars(PUBLIC[name])["__doc__"] if isinstance(PUBLIC[name], type) else PUBLIC[name].__doc__
    assert doc, f"{name} has no docstring"
    first = inspect.cleandoc(doc).split("\n\n")[0]
    assert first[0].isupper(), f"{name}: {first!r}"
    assert first.rstrip().endswith((".", ":")) or ". " in first, f"{name}: {first!r}"


@pytest.mark.parametrize("name", [name for name in prodpool.__all__ if name.endswith("Error")])
def test_errors_say_when(name: str) -> None:
    """The docstring of each error says when it is raised."""
    error = getattr(prodpool, name)
    assert issubclass(error, RuntimeError)
    assert str(error.__doc__).startswith("Raised when ")


@pytest.mark.parametrize("executor", [InstrumentedPool, PoolView])
@pytest.mark.parametrize("method", ["submit", "map", "shutdown"])
def test_signatures_are_those_of_an_executor(executor: type[Executor], method: str) -> None:
    """What can be passed to an Executor's method can be passed to a pool's and a view's."""
    stdlib = inspect.signature(getattr(Executor, method)).parameters
    ours = inspect.signature(getattr(executor, method)).parameters
    for name, parameter in stdlib.items():
        assert name in ours
        assert (ours[name].kind, ours[name].default) == (parameter.kind, parameter.default)
    assert all(ours[name].default is not inspect.Parameter.empty for name in ours.keys() - stdlib.keys())


def test_a_future_has_the_methods_of_a_future() -> None:
    """Every public method of the stdlib's Future takes the same arguments on a pool's."""
    for name, method in vars(Future).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            ours = inspect.signature(getattr(PoolFuture, name)).parameters
            stdlib = inspect.signature(method).parameters
            assert [(p.name, p.kind, p.default) for p in ours.values()] == [
                (p.name, p.kind, p.default) for p in stdlib.values()
            ], name


def test_submit_takes_its_own_arguments_by_position_only() -> None:
    """No parameter name of a submitting method can collide with a keyword argument of the task."""
    for owner in (InstrumentedPool, PoolView):
        for method in ("submit", "submit_wait", "submit_async"):
            kinds = [p.kind for p in inspect.signature(getattr(owner, method)).parameters.values()]
            assert kinds == [
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.VAR_POSITIONAL,
                inspect.Parameter.VAR_KEYWORD,
            ]


def annotated() -> Iterator[tuple[str, object]]:
    """Yield every public function, class, constructor, method and getter."""
    for module in (prodpool, prodpool.opentelemetry, prodpool.testing):
        for name in module.__all__:
            thing = getattr(module, name)
            if name in ALIASES:
                continue
            yield name, thing
            for member, value in vars(thing).items() if isinstance(thing, type) else ():
                inner = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
                if isinstance(inner, types.FunctionType) and (
                    not member.startswith("_") or member == "__init__"
                ):
                    yield f"{name}.{member}", inner


@pytest.mark.parametrize(
    ("name", "thing"), list(annotated()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_annotations_can_be_read(name: str, thing: object) -> None:
    """`typing.get_type_hints` finds every name in a public annotation, as frameworks that read them need."""
    hints = typing.get_type_hints(thing, include_extras=True)
    if isinstance(thing, types.FunctionType):
        assert hints.keys() == thing.__annotations__.keys(), name


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_an_alias_can_be_read(name: str) -> None:
    """A public alias may stand in the annotation of somebody else's function."""

    def theirs(_: object) -> None: ...

    theirs.__annotations__ = {"_": getattr(prodpool, name)}
    assert typing.get_type_hints(theirs)["_"] == getattr(prodpool, name)


def test_the_options_are_those_of_a_pool() -> None:
    """`PoolOptions` and `HandoffOptions` repeat options of `InstrumentedPool`, name and type."""
    constructor = typing.get_type_hints(InstrumentedPool.__init__)
    for options in (prodpool.PoolOptions, prodpool.HandoffOptions):
        hints = typing.get_type_hints(options)
        assert hints == {name: constructor[name] for name in hints}


def test_the_settings_are_the_options_of_a_pool() -> None:
    """Every option but the objects that a pool is handed is a field of `PoolSettings`, with its default."""
    objects = {"self", "backend", "breaker", "registry", "tracer_provider", "logger", "clock"}
    options = {
        name: parameter.default
        for name, parameter in inspect.signature(InstrumentedPool.__init__).parameters.items()
        if name not in objects
    }
    fields = {field.name: field.default for field in dataclasses.fields(PoolSettings)}
    assert fields.keys() == options.keys()
    # None stands for what follows from the backend, or for a default too long for a signature.
    follow = {"name", "max_workers", "queue_capacity"}
    assert [options[name] for name in sorted(follow)] == [None, inspect.Parameter.empty, None]
    assert (options["buckets"], fields["buckets"]) == (None, DEFAULT_BUCKETS)
    assert (options["panics"], fields["panics"]) == (None, DEFAULT_PANICS)
    others = fields.keys() - follow - {"buckets", "panics"}
    assert {name: fields[name] for name in others} == {name: options[name] for name in others}


def test_pool_and_view_are_pool_like() -> None:
    """`PoolLike` has exactly the methods that a pool and its views share, with the same parameters."""
    of_a_view = {name for name in own_members(PoolView) if not name.startswith("_")} - {"shutdown"}
    assert {name for name in vars(prodpool.PoolLike) if not name.startswith("_")} == of_a_view
    for name in of_a_view:
        shared = inspect.signature(getattr(prodpool.PoolLike, name))
        assert shared == inspect.signature(getattr(PoolView, name))
        assert shared == inspect.signature(getattr(InstrumentedPool, name))


def test_the_version_is_the_installed_one() -> None:
    """`prodpool.__version__` is the version that the package's metadata gives."""
    assert prodpool.__version__ == importlib.metadata.version("prodpool")
