"""The stack of an exception that came from another process."""

from __future__ import annotations


class RemoteTraceback(Exception):  # noqa: N818  # not an error itself: the origin of one
    """Never raised: the cause of an exception that came from a worker process, with its stack as text."""

    def __init__(self, stack: str) -> None:
        super().__init__(stack)
        self.tb = stack  # as the standard library's own names it

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'
