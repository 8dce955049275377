"""Raise in the main thread where CPython would handle a signal inside the pool's code.

CPython runs a signal handler only at certain places of the byte code, not between any two instructions: at
the entry of a function, after a call of anything that is not a Python function, at a backward jump, and where
an object is formatted. `with lock:` is none of them on the way in. `tests/faults/test_points.py` compares
these places with those at which handlers of real signals are seen to run.

From CPython 3.12 on `sys.monitoring` names these places itself. On 3.11 the instructions are traced; a class
or callable object whose body is Python is told from a Python function by the name of what it enters.
"""

from __future__ import annotations

import dis
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

import prodpool

PACKAGE = str(Path(prodpool.__file__).parent) + os.sep
# How many of the pool's frames a report names, innermost first.
DEPTH = 4
TOOL = 4  # of sys.monitoring; the ones below are taken by debuggers, coverage and profilers
FORMATS = {"FORMAT_VALUE", "FORMAT_SIMPLE", "FORMAT_WITH_SPEC"}
CALLS = {"CALL", "CALL_FUNCTION_EX", "CALL_KW", "PRECALL"}
# Python code that is entered by way of C, so that the interpreter looks for signals when it has returned.
THROUGH_C = {"__init__", "__new__", "__call__"}


def places(frame: FrameType | None, inside: str) -> list[str]:
    """Name the frames whose file lies ``inside``, innermost first."""
    found: list[str] = []
    while frame is not None and len(found) < DEPTH:
        code = frame.f_code
        if code.co_filename.startswith(inside):
            found.append(f"{code.co_filename.removeprefix(inside)}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return found


def _in_finalizer(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def _called_itself(frame: FrameType) -> bool:
    return frame.f_back is not None and frame.f_back.f_code is frame.f_code


class Injector:
    """Raises at the ``target``-th point that the main thread comes to inside ``with``.

    It raises KeyboardInterrupt, and at every other point SystemExit, as the handler of SIGTERM in the guide
    to stopping does. ``seen`` is the number of points it came to; ``where`` tells the place once it has
    raised. A target of 0 only counts. Points lie in code whose file name begins with ``inside``.
    """

    def __init__(self, target: int, inside: str = PACKAGE) -> None:
        self.errors: tuple[type[BaseException], ...] = (SystemExit if target % 2 else KeyboardInterrupt,)
        self.surely, self.fragile = True, False
        self.misses = 1
        self.target = target
        self.inside = inside
        self.seen = 0
        self.where: str | None = None
        self.jumped: FrameType | None = None

    def __enter__(self) -> Self:
        _arm(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _disarm()

    def hit_another(self) -> bool:
        """Return False: only the main thread is interrupted."""
        return False

    def point(self, frame: FrameType, what: str) -> None:
        """Count one point, and raise at the one that is meant; a finalizer has none, nor any caller.

        Nor has a function that has called itself: what is true of the first depth is true of all.
        """
        if _in_finalizer(frame) or _called_itself(frame):
            return
        self.seen += 1
        if self.seen == self.target:
            self.where = f"[{what}] " + " < ".join(places(frame, self.inside))
            raise self.errors[0]


if sys.version_info >= (3, 12):
    _armed: Injector | None = None
    _main = threading.main_thread().ident
    _on = False

    def _arm(injector: Injector) -> None:
        global _armed, _on  # noqa: PLW0603  # the interpreter has one set of callbacks
        if not _on or _scope[0] != injector.inside:
            # Code that was not looked at last time may be what it is about now.
            sys.monitoring.restart_events()
        _scope[0] = injector.inside
        if not _on:
            _on = True
            _register()
        _armed = injector

    def _disarm() -> None:
        global _armed  # noqa: PLW0603
        _armed = None

    def give_back() -> None:
        """Have no events any more: they slow down whatever else this process is to do."""
        global _on  # noqa: PLW0603
        if _on:
            _on = False
            sys.monitoring.set_events(TOOL, 0)
            sys.monitoring.free_tool_id(TOOL)

    _scope = [""]

    def _entered(code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(_scope[0]):
            return sys.monitoring.DISABLE  # code that is not looked at is not asked about again
        injector = _armed
        if injector is not None and threading.get_ident() == _main:
            injector.point(sys._getframe(1), "entry")
        return None

    def _called(code: CodeType, offset: int, called: object, first: object) -> Any:
        # Without this one there would be no event for the return.
        return None if code.co_filename.startswith(_scope[0]) else sys.monitoring.DISABLE

    def _returned(code: CodeType, offset: int, called: object, first: object) -> Any:
        injector = _armed
        if injector is not None and threading.get_ident() == _main and code.co_filename.startswith(_scope[0]):
            injector.point(sys._getframe(1), "call")

    def _jumped(code: CodeType, offset: int, destination: int) -> Any:
        if not code.co_filename.startswith(_scope[0]):
            return sys.monitoring.DISABLE
        injector = _armed
        if destination < offset and injector is not None and threading.get_ident() == _main:
            # Raised before the next instruction: 3.12 looks in the wrong place for what handles it here.
            injector.jumped = sys._getframe(1)
        return None

    def _instruction(code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(_scope[0]):
            return sys.monitoring.DISABLE
        injector = _armed
        if injector is not None and threading.get_ident() == _main:
            frame = sys._getframe(1)
            if injector.jumped is not None:
                injector.jumped = None
                injector.point(frame, "jump")
            if dis.opname[code.co_code[offset]] in FORMATS:
                injector.point(frame, "format")
        return None

    def _register() -> None:
        monitoring = sys.monitoring
        monitoring.use_tool_id(TOOL, "faults")
        events = monitoring.events
        callbacks: dict[int, Callable[..., Any]] = {
            events.PY_START: _entered,
            events.CALL: _called,
            events.C_RETURN: _returned,
            events.JUMP: _jumped,
            events.INSTRUCTION: _instruction,
        }
        for event, callback in callbacks.items():
            monitoring.register_callback(TOOL, event, callback)
        # A return has an event wherever its call has one.
        monitoring.set_events(TOOL, events.PY_START | events.CALL | events.JUMP | events.INSTRUCTION)

else:

    class _Tracer:
        """Finds the points by the instructions that are traced."""

        def __init__(self, injector: Injector) -> None:
            self._injector = injector
            # The point that comes right after the instruction which each frame executes, and where that is.
            self._next: dict[FrameType, tuple[str, int] | None] = {}

        def enter(self, frame: FrameType, _event: str, _: Any) -> Any:
            back = frame.f_back
            if back in self._next and frame.f_code.co_name not in THROUGH_C:
                self._next[back] = None  # called by Python from Python: no look for signals after that
            if not frame.f_code.co_filename.startswith(self._injector.inside):
                return None
            # A generator that is closed where it stands is entered for this tracer, and not for a signal.
            if dis.opname[frame.f_code.co_code[frame.f_lasti]] != "YIELD_VALUE":
                self._injector.point(frame, "entry")
            self._next[frame] = None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self.step

        def step(self, frame: FrameType, event: str, _: Any) -> Any:
            if event == "return":
                self._next.pop(frame, None)
            elif event == "opcode":
                what, at = self._next.get(frame) or ("", 0)
                self._next[frame] = None
                # A conditional jump that was not taken is no point.
                if what == "call" or (what == "jump" and frame.f_lasti < at):
                    self._injector.point(frame, what)
                name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
                if name in FORMATS:
                    self._injector.point(frame, "format")
                elif name in CALLS and name != "PRECALL":
                    self._next[frame] = ("call", frame.f_lasti)
                elif "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name:
                    self._next[frame] = ("jump", frame.f_lasti)
            return self.step

    # What traced before, such as coverage.
    _before: list[Any] = [None]

    def _arm(injector: Injector) -> None:
        _before[0] = sys.gettrace()
        sys.settrace(_Tracer(injector).enter)

    def _disarm() -> None:
        sys.settrace(_before[0])

    def give_back() -> None:
        """Have no events any more; here there are none outside ``with``."""


# A worker process that is forked meanwhile is not to be interrupted.
os.register_at_fork(after_in_child=_disarm)
