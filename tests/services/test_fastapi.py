"""Pools in the lifespan of FastAPI, served by a real uvicorn and by a real gunicorn."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.waiting import PATIENCE, until
from tests.services.asgi_server import (
    CAPACITY,
    Answer,
    ASGIServer,
    clients,
    gunicorn,
    in_flight,
    temporary_folder,
    uvicorn,
)

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]
# uvicorn's own has been deprecated in favour of a package that says the same.
WORKER_CLASSES = ("asgi", "uvicorn.workers.UvicornWorker")


def is_refused(answer: Answer) -> bool:
    """Tell whether the client was told that the pool is full."""
    told = json.loads(answer.body) if answer.status == 429 else {}
    return told.get("reason") == "full" and answer.headers["retry-after"] == str(told["retry_after"])


def leave_connection(server: ASGIServer, path: str, queued: int) -> None:
    """Send a request, wait until its task is queued, and close the connection."""
    with server.open(path):
        until(lambda: server.json("stats")["queued"] == queued)


def test_a_full_pool_on_uvicorn(tmp_path: Path) -> None:
    """The clients get a 200 or a 429 that says when to come back, and nothing else.

    A client that leaves has its queued task dropped if the endpoint says so, and run if it does not.
    """
    with uvicorn(tmp_path) as server, clients(server) as some:
        load = [some.start("sum/1000") for _ in range(200)]
        assert {each.result().status for each in load} <= {200, 429}
        assert Counter(each.result().status for each in load)[200] > 0

        held = [some.start(f"wait/held{number}") for number in range(2)]
        until(lambda: server.json("stats")["running"] == 2)
        leave_connection(server, "run/left", queued=1)
        leave_connection(server, "cancellable/dropped", queued=2)
        until(lambda: server.json("stats")["cancelled"] == 1)
        assert server.json("stats")["queued"] == 1
        held += [some.start(f"wait/more{number}") for number in range(CAPACITY - 3)]
        until(lambda: in_flight(server) == CAPACITY)
        assert all(is_refused(some.start(path).result()) for path in ("wait/late", "sum/1", "two"))

        Path(tmp_path, "release").touch()
        assert {each.result(PATIENCE).status for each in held} == {200}
        until(lambda: in_flight(server) == 0)
        assert some.start("two").result().status == 200
        assert Path(tmp_path, "left").exists()
        assert not Path(tmp_path, "dropped").exists()
    assert "Traceback" not in server.log()
    assert "ERROR" not in server.log()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_ends_under_load(tmp_path: Path, end: signal.Signals) -> None:
    """Every request is answered and every accepted task done, as far as the pool is of the lifespan.

    uvicorn dies of SIGTERM, and then Python runs nothing at its exit: what is in another pool is lost. After
    SIGINT it is done at the interpreter's exit.
    """
    with uvicorn(tmp_path, end=end) as server:
        with clients(server) as some:
            accepted = [
                f"{path}{number}" for number in range(3) for path in ("image/image", "outside/outside")
            ]
            assert {some.start(path).result().status for path in [*accepted, "loop/loop"]} == {202}
            waiting = [some.start(f"wait/held{number}") for number in range(CAPACITY - 1)]
            until(lambda: in_flight(server) == CAPACITY)
            server.process.send_signal(end)
            server.until_logged("Waiting for connections to close")
            Path(tmp_path, "release").touch()
            answers = [each.result(PATIENCE) for each in waiting]
            assert {answer.status for answer in answers} == {200}
        server.process.wait(PATIENCE)
    done = {path.name for path in tmp_path.iterdir()}
    assert done >= {f"held{number}" for number in range(CAPACITY - 1)} | {
        "loop",
        "image0",
        "image1",
        "image2",
    }
    outside = {name for name in done if name.startswith("outside")}
    assert outside == ({f"outside{number}" for number in range(3)} if end is signal.SIGINT else set())
    assert "Traceback" not in server.log()
    assert "Application shutdown complete" in server.log()
    assert list(temporary_folder(tmp_path).iterdir()) == []


@pytest.mark.parametrize("worker", WORKER_CLASSES)
def test_gunicorn_ends_under_load(tmp_path: Path, worker: str) -> None:
    """With either class of workers every request is answered and every accepted task of the lifespan done.

    gunicorn's own class cancels an endpoint whose client has gone, and lets Python come to its exit.
    """
    own = worker == "asgi"
    with gunicorn(tmp_path, worker) as server:
        with clients(server) as some:
            assert {some.start(path).result().status for path in ("image/0", "outside/outside")} == {202}
            waiting = [some.start(f"wait/held{number}") for number in range(CAPACITY - 1)]
            until(lambda: in_flight(server) == CAPACITY - 1)
            leave_connection(server, "run/left", queued=CAPACITY - 2)
            if own:
                until(lambda: server.json("stats")["cancelled"] == 1)
                waiting.append(some.start("wait/held"))
                until(lambda: in_flight(server) == CAPACITY)
            assert is_refused(some.start("wait/late").result())
            server.process.send_signal(signal.SIGTERM)
            server.until_logged("Handling signal: term")
            Path(tmp_path, "release").touch()
            assert {each.result(PATIENCE).status for each in waiting} == {200}
        assert server.process.wait(PATIENCE) == 0
    done = {path.name for path in tmp_path.iterdir()}
    assert done >= {"0", *(f"held{number}" for number in range(CAPACITY - 1))}
    assert ("left" in done, "outside" in done) == (not own, own)
    assert "Traceback" not in server.log()
