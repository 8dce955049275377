"""The cases of CPython's suite that are not run, each with the one reason allowed.

That reason is a private attribute of the stdlib class which the case reads and which the wrapped
executor cannot lend (`wrapped.LENT`) with the meaning that the case gives it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why one case is left out.

    Attributes:
        private: The private attribute of the stdlib class that the case reads.
        why: What the case takes for granted about it.
    """

    private: str
    why: str


EXCLUSIONS: dict[str, Exclusion] = {}


# CPython's FutureTests need no executor: they make the stdlib's futures themselves and set their results.
# They run here on futures of a pool, without these, which are about the stdlib's class and no other.
FUTURES_EXCLUDED = {
    "FutureTests.test_cancel": "compares _state, and has CANCELLED apart from CANCELLED_AND_NOTIFIED",
    "FutureTests.test_exception_with_success": "sets _state and _exception under _condition itself",
    "FutureTests.test_multiple_set_exception": "sets an outcome twice, where a pool's future takes none",
    "FutureTests.test_multiple_set_result": "sets an outcome twice, where a pool's future takes none",
    "FutureTests.test_repr": "compares the words of the stdlib's repr",
    "FutureTests.test_done_callback_raises_already_succeeded": "compares the words of the stdlib's log line",
}
