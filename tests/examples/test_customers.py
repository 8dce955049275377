from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import urllib3

from examples.webhook_service.customers import Behaviour, CustomersServer
from examples.webhook_service.processes import Customers
from tests.support import ROOT


@pytest.fixture
def customers() -> Iterator[CustomersServer]:
    """Run the customers within this process."""
    server = CustomersServer()
    server.start()
    yield server
    server.stop(1.0)
    server.hang_up()


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    """Return a client that never resends."""
    with urllib3.PoolManager(retries=False, timeout=10.0) as client:
        yield client


def _post(
    http: urllib3.PoolManager, server: CustomersServer, customer: str = "acme", timeout: float = 10.0
) -> int:
    url = f"http://127.0.0.1:{server.server_port}/hooks/{customer}"
    return http.request("POST", url, body=b"{}", timeout=timeout).status


@pytest.mark.parametrize(
    ("behaviour", "status", "least"),
    [
        pytest.param(Behaviour("healthy", 0.0), 200, 0.0, id="healthy"),
        pytest.param(Behaviour("slow", 0.2), 200, 0.2, id="slow"),
        pytest.param(Behaviour("bursting", 0.0), 200, 0.0, id="bursting"),
        pytest.param(Behaviour("failing", 0.0), 500, 0.0, id="failing"),
    ],
)
def test_a_customer_answers_as_it_was_told(
    customers: CustomersServer, http: urllib3.PoolManager, behaviour: Behaviour, status: int, least: float
) -> None:
    """Status and time to answer follow the behaviour, and the customer counts what it received."""
    customers.behave("acme", behaviour)
    began = time.monotonic()
    assert _post(http, customers) == status
    assert time.monotonic() - began >= least
    assert customers.counts() == {
        "received": {"acme": 1},
        "acknowledged": {"acme": 1} if status == 200 else {},
    }


def test_a_hanging_customer_accepts_and_never_answers(
    customers: CustomersServer, http: urllib3.PoolManager
) -> None:
    """Only the caller's own timeout ends a delivery to a hanging customer; the others go on as before."""
    customers.behave("acme", Behaviour("hanging"))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        _post(http, customers, timeout=0.5)
    assert _post(http, customers, "globex") == 200
    assert customers.counts()["received"] == {"acme": 1, "globex": 1}


def test_behaviour_is_switched_over_http(customers: CustomersServer, http: urllib3.PoolManager) -> None:
    """The control endpoint changes one customer from the next request on and leaves the others alone."""
    control = f"http://127.0.0.1:{customers.server_port}/control"
    assert http.request("PUT", f"{control}/acme", json={"mode": "failing"}).status == 200
    assert (_post(http, customers), _post(http, customers, "globex")) == (500, 200)
    assert http.request("GET", control).json() == customers.counts()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("PUT", "/control/acme", b'{"mode": "silly"}', 400, id="unknown mode"),
        pytest.param("PUT", "/control/acme", b'{"mode": "slow", "seconds": -1}', 400, id="negative time"),
        pytest.param("PUT", "/control/acme", b"[]", 400, id="no object"),
        pytest.param("PUT", "/control/acme", b"{", 400, id="no JSON"),
        pytest.param("PUT", "/control/", b"{}", 404, id="no name"),
        pytest.param("POST", "/elsewhere", b"{}", 404, id="no hook"),
        pytest.param("POST", "/hooks/acme", b"x" * 70_000, 413, id="too long a body"),
    ],
)
def test_what_makes_no_sense_is_refused(
    customers: CustomersServer, http: urllib3.PoolManager, method: str, path: str, body: bytes, status: int
) -> None:
    """A wrong request gets a status that says so, and changes nothing."""
    url = f"http://127.0.0.1:{customers.server_port}{path}"
    assert http.request(method, url, body=body).status == status
    assert _post(http, customers) == 200


def test_more_connections_than_allowed_are_turned_away() -> None:
    """A connection beyond the limit is answered with 503 at once instead of getting a thread."""
    server = CustomersServer(max_connections=1)
    server.start()
    try:
        with (
            urllib3.PoolManager(retries=False, timeout=2.0) as first,
            urllib3.PoolManager(retries=False) as second,
        ):
            assert _post(first, server) == 200
            assert _post(second, server) == 503
    finally:
        server.stop(1.0)
        server.hang_up()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_customers_run_until_a_signal_whatever_stdin_is(
    http: urllib3.PoolManager, number: signal.Signals
) -> None:
    """In the background, where stdin is not to be read or at its end, they serve until a signal; then 0."""
    with subprocess.Popen(
        [sys.executable, "-m", "examples.webhook_service.customers"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        assert http.request("POST", f"http://127.0.0.1:{port}/hooks/acme", body=b"{}").status == 200
        process.send_signal(number)
        assert process.wait(10) == 0


@pytest.mark.slow
def test_the_customers_of_the_demonstration_end_when_it_does() -> None:
    """With --stop-with-stdin, as the demonstration starts them, they end when their parent is gone."""
    customers = Customers()
    customers.close(timeout=10)
    assert customers.exit_code == 0
