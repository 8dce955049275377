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
