"""A service in a process group of its own, and folders in which its threads and processes meet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.helpers.waiting import PATIENCE, poll, until
from tests.support import ROOT

# The names of those in `pools`, which only a service imports.
POOLS = ("executor", "factory", "template", "threads", "processes")


def meet(place: str, count: int, answer: object) -> None:
    """Leave an answer in the folder ``place`` and return when there are so many, of whichever process.

    So a service with as many threads, in all its processes, has each of them answer once.
    """
    made = Path(place, f".{os.getpid()}-{threading.get_ident()}")
    made.parent.mkdir(parents=True, exist_ok=True)
    made.write_text(json.dumps([answer, os.getpid()]))
    made.rename(made.with_name(made.name[1:] + ".json"))
    answers(Path(place), count)


def answers(place: Path, count: int) -> tuple[list[object], set[int]]:
    """Wait for so many answers and return them, and the processes that gave them."""
    until(lambda: len(list(place.glob("*.json"))) >= count)
    found = [json.loads(path.read_text()) for path in place.glob("*.json")]
    return [answer for answer, _ in found], {pid for _, pid in found}


def living(group: int) -> list[str]:
    """Return the command lines of those processes of a group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, _, its_group = Path(folder, "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "XZ":
                found.append(Path(folder, "cmdline").read_text().replace("\0", " "))
    return found


@contextmanager
def listening() -> Iterator[tuple[int, int]]:
    """Listen on a port for a server, which inherits the socket; yield its descriptor and the port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.fileno(), listener.getsockname()[1]


class Service:
    """A server that was started with `service`."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def log(self) -> str:
        """Return what the server and its children have written until now."""
        return self._log.read_text()

    def until_logged(self, text: str) -> None:
        """Wait until the log holds ``text``; fail if the server ends before that."""
        until(lambda: text in self.log() or self.process.poll() is not None)
        assert text in self.log()

    def lines(self, event: str) -> list[str]:
        """Return the lines of the log that hold ``event``."""
        return [line for line in self.log().splitlines() if event in line]


@contextmanager
def service(
    command: Sequence[str | Path],
    log: Path,
    env: dict[str, str],
    pass_fds: Sequence[int] = (),
    end: signal.Signals = signal.SIGKILL,
    status: int | None = None,
) -> Iterator[Service]:
    """Serve until the block ends, and then end the server by a signal; it leaves no process behind.

    Its exit status is ``status``, or else 0 after a signal that it can handle.
    """
    if status is None:
        status = -end if end is signal.SIGKILL else 0
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            env={**os.environ, **env},
            pass_fds=pass_fds,
            start_new_session=True,
        )
    served = Service(process, log)
    try:
        yield served
        process.send_signal(end)
        assert process.wait(PATIENCE) == status
        # They see for themselves that the one that they work for is gone.
        assert poll(lambda: not living(process.pid), PATIENCE), living(process.pid)
    except BaseException as error:
        error.add_note(served.log())
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
