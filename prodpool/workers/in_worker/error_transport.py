"""How the exception of a call travels to the pool's process: as bytes that load there, and as text."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from typing import Any

from prodpool.errors import RemoteTaskError
from prodpool.text import short_stack, type_name


def pack_error(pool: str, task: str, error: BaseException, dumps: Callable[[Any], bytes]) -> bytes:
    """Pickle an exception: as it is, else without its ``__init__``, else what stands in for it."""
    for form in (lambda: error, lambda: Rebuilt.of(error)):
        try:
            data = dumps(form())
            # One whose __init__ does not take what it passed on would not load in the pool's process.
            if type(pickle.loads(data)) is type(error):  # noqa: S301
                return data
        except BaseException:  # noqa: BLE001, S110  # its own code, which may raise anything
            pass
    # In a spawned process the application's script has another name than in the pool's own.
    kinds = tuple(
        f"{kind.__module__}.{kind.__qualname__}".replace("__mp_main__.", "__main__.", 1)
        for kind in type(error).__mro__
    )
    substitute = RemoteTaskError(pool=pool, task=task, error=type_name(error), kinds=kinds)
    return pickle.dumps(substitute, pickle.HIGHEST_PROTOCOL)


def render(error: BaseException) -> str:
    """Return an exception and its stack as text."""
    try:
        return short_stack(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001
        return f"{type_name(error)} (its stack could not be rendered)"


class Rebuilt:
    """Pickles as an exception that is made anew from its class, ``args`` and attributes.

    By itself it pickles as a call of its class with ``args``, which fails where ``__init__`` takes others.
    """

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        self._parts = kind, args, attributes

    @classmethod
    def of(cls, error: BaseException) -> Rebuilt:
        """Return what pickles as ``error``."""
        attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
        # Not ``args``: those of an OSError leave out the file's name.
        args: tuple[Any, ...] = _builtin(type(error)).__reduce__(error)[1]
        return cls(type(error), args, attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, self._parts


def rebuild_error(
    kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]
) -> BaseException:
    """Make an exception without an ``__init__`` but that of the interpreter's own class."""
    error = kind.__new__(kind, *args)
    _builtin(kind).__init__(error, *args)
    # Not by assignment: an exception may be a frozen dataclass.
    vars(error).update(attributes)
    return error


def _builtin(kind: type[BaseException]) -> Any:
    """Return the interpreter's own class that an exception's class is derived from."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")
