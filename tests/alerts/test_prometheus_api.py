"""How a Prometheus is asked: over real sockets, with credentials, and what is said when none answers."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from prodpool.cli import main
from prodpool.monitoring.postmortem.prometheus_api import PrometheusApi, PrometheusApiError
from tests.observe.child import LOOPBACK

pytestmark = pytest.mark.once

VECTOR = {"resultType": "vector", "result": [{"metric": {"pool": "p"}, "value": [5, "1.5"]}]}
OK = json.dumps({"status": "success", "data": VECTOR, "warnings": ["store b is away"]})


@dataclass
class AnsweringServer:
    """A server that gives one answer to all; it remembers what it was asked."""

    status: int = 200
    body: str = OK
    location: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Listen on a free port; yield the address."""
        mine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("Content-Length", 0))
                seen = self.headers.get("Authorization", "")
                mine.asked.append((self.command, seen, self.path + self.rfile.read(size).decode()))
                self.send_response(mine.status)
                if mine.location:
                    self.send_header("Location", mine.location)
                self.end_headers()
                self.wfile.write(mine.body.encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, name="answers", args=(0.01,))
        thread.start()
        try:
            self.port = server.server_port
            yield f"http://{LOOPBACK}:{self.port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", LOOPBACK)


def error(url: str, **options: float) -> str:
    """Return what is said when a query fails."""
    with pytest.raises(PrometheusApiError) as raised:
        PrometheusApi(url, **options).query("up", 5.0)  # type: ignore[arg-type]
    return str(raised.value)


def test_a_query_below_a_prefix() -> None:
    """A query goes to the address with its prefix; values and Prometheus's warnings come back."""
    server = AnsweringServer()
    with server.listening() as url:
        api = PrometheusApi(f"{url}/prefix/")
        [found] = api.query('up{pool="a b"}', 5.0)
        api.query("up", 5.0)
    assert (found.labels, found.points) == ({"pool": "p"}, [(5.0, 1.5)])
    assert api.warnings == ["store b is away"]
    method, _, path = server.asked[0]
    assert method == "GET"
    assert path == "/prefix/api/v1/query?query=up%7Bpool%3D%22a+b%22%7D&time=5.000"


def test_a_long_query_is_sent_as_a_form() -> None:
    """A query too long for an address is sent in the body."""
    server = AnsweringServer()
    names = "|".join(f"pool_{number}" for number in range(600))
    with server.listening() as url:
        PrometheusApi(url).query(f'up{{pool=~"{names}"}}', 5.0)
    method, _, sent = server.asked[0]
    assert method == "POST"
    assert parse_qs(sent.removeprefix("/api/v1/query"))["query"] == [f'up{{pool=~"{names}"}}']


def test_credentials() -> None:
    """User and password in the address become basic auth, and no message shows them; a header is sent."""
    server = AnsweringServer()
    with server.listening() as url:
        host = url.removeprefix("http://")
        api = PrometheusApi(f"http://on%40call:s%3Acret@{host}")
        api.query("up", 5.0)
        PrometheusApi(url, {"Authorization": "Bearer abc"}).query("up", 5.0)
        server.status, server.body = 401, "no"
        said = error(f"http://user:s3cret@{host}")
    assert api.url == url
    basic = "Basic " + base64.b64encode(b"on@call:s:cret").decode()
    assert [seen for _, seen, _ in server.asked[:2]] == [basic, "Bearer abc"]
    assert said == (
        f"{url} answers 401, for it asks for credentials (no): pass user and password in the address, or "
        "--header 'Authorization: Bearer ...'"
    )


def test_credentials_are_not_sent_on() -> None:
    """Whoever a redirect leads to is asked without the credentials."""
    other, server = AnsweringServer(), AnsweringServer(302)
    with other.listening() as elsewhere, server.listening() as url:
        server.location = f"{elsewhere}/api/v1/query"
        PrometheusApi(url, {"Authorization": "Bearer abc"}).query("up", 5.0)
    assert [seen for _, seen, _ in server.asked + other.asked] == ["Bearer abc", ""]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, '{"status":"error","errorType":"bad_data","error":"parse error"}', "answers 400: parse error"),
        (503, "try\nlater", "answers 503: try\\nlater"),
        (500, "", "answers 500: no reason is given"),
        (403, "", "answers 403, for it asks for the right to read (no reason is given): pass user and "),
        (404, "404 page not found", "answers 404: 404 page not found"),
        (
            200,
            "<html>a login page</html>",
            "answers, but not as a Prometheus does: pass the address under which",
        ),
        (200, '{"status":"success"}', "answers, but not as a Prometheus does: "),
        (200, "[1]", "answers, but not as a Prometheus does: "),
    ],
)
def test_an_answer_that_is_none(status: int, body: str, said: str) -> None:
    """An error of Prometheus, of a proxy before it, or of another server, is told with its own reason."""
    with AnsweringServer(status, body).listening() as url:
        assert error(url).startswith(f"{url} {said}")


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    """The command says that the address cannot be reached and ends with status 2."""
    with socket.create_server((LOOPBACK, 0)) as free:
        url = f"http://{LOOPBACK}:{free.getsockname()[1]}"
    with pytest.raises(SystemExit) as ended:
        main(["postmortem", "--prometheus", url, "--from", "-2h"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"prodpool postmortem: error: {url} cannot be asked (")
    assert "refused" in said
    assert said.endswith("look at the address in --prometheus, and whether this machine reaches it")


def test_no_answer_in_time() -> None:
    """A server that accepts and stays silent, or stops in the middle, is left after the timeout."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        url = f"http://{LOOPBACK}:{silent.getsockname()[1]}"
        assert error(url, timeout=0.1) == (
            f"{url} did not answer within 0.1 s: pass a longer --timeout, or a shorter time between --from "
            "and --to"
        )
        connection, _ = silent.accept()
        connection.close()


def test_a_proxy_of_the_environment() -> None:
    """The command goes through the proxy that the environment names."""
    server = AnsweringServer(502, "no such host")
    with server.listening() as proxy:
        command = ["postmortem", "--prometheus", "http://user:pass@prometheus.example", "--from", "-2h"]
        said = subprocess.run(
            [sys.executable, "-m", "prodpool", *command],
            env={**os.environ, "http_proxy": proxy, "no_proxy": ""},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert server.asked[0][2].startswith("http://prometheus.example/api/v1/label/job/values?")
    assert said.stderr.endswith("error: http://prometheus.example answers 502: no such host\n")


def test_an_answer_that_is_cut_off() -> None:
    """A connection that is closed in the middle of an answer is no answer."""
    with socket.create_server((LOOPBACK, 0)) as server:
        url = f"http://{LOOPBACK}:{server.getsockname()[1]}"

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"status":')

        thread = threading.Thread(target=answer)
        thread.start()
        assert error(url).startswith(f"{url} cannot be asked (IncompleteRead(")
        thread.join()


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "file:///etc/passwd", "http://", "http://host:port", "ftp://x"]
)
def test_an_address_that_is_none(url: str) -> None:
    """What is no address of http or https is refused before anything is opened."""
    assert error(url) == (
        f"{url!r} is not the address of a Prometheus: pass one such as http://prometheus:9090"
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        (
            "--header",
            "Bearer s3cret",
            "pass one of the form 'Name: value', such as 'Authorization: Bearer ...'",
        ),
        ("--header", "X: a\nY: b", "pass one of the form 'Name: value', such as 'Authorization: Bearer ...'"),
        ("--timeout", "soon", "'soon': pass a number of seconds above 0, such as 30"),
        ("--timeout", "nan", "'nan': pass a number of seconds above 0, such as 30"),
        ("--slo", "1.5", "--slo 1.5: pass a share between 0 and 1, such as 0.9"),
    ],
)
def test_an_option_that_does_not_fit(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that cannot work is refused with a way out; a header's value is not repeated."""
    with pytest.raises(SystemExit):
        main(["postmortem", "--prometheus", "http://127.0.0.1:9", "--from", "-2h", option, value])
    told = capsys.readouterr().err
    assert told.endswith(f"{said}\n")
    assert "s3cret" not in told
