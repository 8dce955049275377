"""A server as a child process that does not outlive the tests, however they end."""

from __future__ import annotations

import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

LOOPBACK = "127.0.0.1"
# Seconds that a server may take to start or to end, and between two looks at whether it has.
START_WITHIN, END_WITHIN, LOOK_EVERY = 30.0, 10.0, 0.05


class Child:
    """A program that writes its log to a file; it is killed when the interpreter that started it is gone.

    Use it as a context manager: on leaving, the program is asked to end and then made to.
    """

    def __init__(self, command: Sequence[str], log: Path, cwd: Path | None = None) -> None:
        self.log = log
        # A run of pytest that hangs is ended by os._exit, which unwinds nothing.
        setpriv = shutil.which("setpriv")
        tied = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [*tied, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Return the first place in the log that matches, as soon as it is there."""
        return self.until(lambda: re.search(pattern, self.log.read_text()), f"{pattern!r} in its log")

    def until(self, look: Callable[[], T | None], what: str, timeout: float = START_WITHIN) -> T:
        """Return what ``look`` finds, once it finds something; the program must stay alive until then."""
        ends_at = time.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            if self._process.poll() is not None or time.monotonic() > ends_at:
                state = self._process.returncode
                raise AssertionError(
                    f"no {what} within {timeout} s; status {state}; its log:\n{self.log.read_text()}"
                )
            time.sleep(LOOK_EVERY)

    def end(self) -> int:
        """Ask the program to end, kill it if it does not, and return its status."""
        self._process.terminate()
        try:
            return self._process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def get(port: int, path: str) -> tuple[int, bytes]:
    """Return the status and the body of an answer from a port of this machine; status 0 if there is none."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (ConnectionError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
