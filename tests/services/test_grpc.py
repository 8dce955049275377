"""Real gRPC servers whose RPCs are tasks of a pool, and what their clients see when it is full."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from prodpool import InstrumentedPool
from prodpool.integrations.grpc import server
from tests.helpers.waiting import PATIENCE, until
from tests.services.service import Service, service

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]
WORKERS, CAPACITY, AT_ONCE = 2, 4, 10
FULL = Counter(OK=CAPACITY, RESOURCE_EXHAUSTED=AT_ONCE - CAPACITY)


class Servers:
    """The servers of `grpc_app`, in one process."""

    def __init__(self, served: Service, folder: Path) -> None:
        self.lines = served.lines
        self.until_logged = served.until_logged
        self.process = served.process
        self.folder = folder
        self._released = 0

    @contextmanager
    def channel(self, name: str) -> Iterator[grpc.Channel]:
        """Connect to one of them, by a connection of its own."""
        port = self.folder / f"{name}.port"
        until(port.exists)
        # RPCs are not retried by the client itself: the tests want to see each refusal.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{port.read_text()}", options=options) as channel:
            yield channel

    def file(self) -> Path:
        """Return a file that RPCs are to wait for."""
        self._released += 1
        return self.folder / f"release-{self._released}"


@contextmanager
def serving(folder: Path, *names: str, end: signal.Signals = signal.SIGKILL) -> Iterator[Servers]:
    """Serve these until the block ends."""
    command = ["-W", "error", "-m", "tests.services.grpc_app", str(folder), *names]
    with service(command, folder / "grpc.log", {}, end=end) as served:
        yield Servers(served, folder)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """All servers that the tests of this module share."""
    names = (
        "reject",
        "block",
        "caller_runs",
        "bounded",
        "integrated",
        "stopped",
        "breaking",
        "unable",
        "aio",
    )
    with serving(tmp_path_factory.mktemp("grpc"), *names) as started:
        yield started


def call(channel: grpc.Channel, method: str, request: bytes = b"-") -> Any:
    """Begin an RPC."""
    return channel.unary_unary(f"/test.Test/{method}").future(request, timeout=PATIENCE)


def code(rpc: Any) -> str:
    """Wait for how an RPC ends."""
    name: str = rpc.code().name
    return name


def stats(channel: grpc.Channel, pool: str) -> tuple[int, int]:
    """Ask for the tasks that a pool has in flight, and for those that it has refused because it was full."""
    in_flight, refused = json.loads(call(channel, "Stats", pool.encode()).result())
    return in_flight, refused


class Burst:
    """More RPCs at once than the pool holds. Those that wait go on when the others have ended."""

    def __init__(self, servers: Servers, channel: grpc.Channel, method: str = "Wait") -> None:
        release = servers.file()
        rpcs = [call(channel, method, str(release).encode()) for _ in range(AT_ONCE)]
        until(lambda: sum(rpc.done() for rpc in rpcs) >= AT_ONCE - CAPACITY)
        release.touch()
        self.codes = Counter(code(rpc) for rpc in rpcs)
        self.refused = [rpc for rpc in rpcs if code(rpc) != "OK"]


@pytest.mark.parametrize("overload", ["reject", "block", "caller_runs"])
def test_without_a_bound(servers: Servers, overload: str) -> None:
    """A pool that grpc overfills says in the log what is wrong, before its server stands still for good."""
    with servers.channel(overload) as channel:
        rpcs = [call(channel, "Wait", b"never there") for _ in range(AT_ONCE)]
        until(lambda: any(f"pool={overload} " in line for line in servers.lines("pool.grpc_unbounded")))
        for rpc in rpcs:
            rpc.cancel()
    (line,) = [line for line in servers.lines("pool.grpc_unbounded") if f"pool={overload} " in line]
    assert "ERROR:prodpool:pool.grpc_unbounded" in line
    assert f"overload={overload}" in line
    assert "maximum_concurrent_rpcs" in line
    if overload == "reject":
        servers.until_logged("PoolFullError: pool 'reject' is full")
        (line,) = servers.lines("PoolFullError: pool 'reject' is full")
        assert "prodpool.integrations.grpc.server" in line


def test_bounded_by_the_capacity(servers: Servers) -> None:
    """With ``maximum_concurrent_rpcs=pool.capacity`` each RPC is answered or refused, again and again."""
    with servers.channel("bounded") as channel:
        assert Burst(servers, channel).codes == FULL
        for _ in range(5):
            codes = Burst(servers, channel).codes
            # An RPC of the last burst may still be counted, since the client has its answer a bit earlier.
            assert codes.keys() == FULL.keys()
            assert codes.total() == AT_ONCE
        until(lambda: code(call(channel, "Task")) == "OK")
        assert stats(channel, "bounded")[1] == 0


def test_integrated(servers: Servers) -> None:
    """The pool itself refuses, whatever its policy: it counts that and tells the client when to retry."""
    with servers.channel("integrated") as channel, servers.channel("bounded") as other:
        _, before = stats(other, "integrated")
        burst = Burst(servers, channel)
        assert burst.codes == FULL
        by_pool = [rpc for rpc in burst.refused if rpc.details() == "refused: full"]
        assert len(by_pool) == AT_ONCE - CAPACITY == stats(other, "integrated")[1] - before
        for rpc in by_pool:
            assert int(dict(rpc.trailing_metadata())["grpc-retry-pushback-ms"]) >= 1000
        for _ in range(5):
            assert Burst(servers, channel).codes.keys() == FULL.keys()
        until(lambda: code(call(channel, "Task")) == "OK")
    assert [line for line in servers.lines("pool.grpc_unbounded") if "integrated" in line] == []


def test_clients_that_send_no_message(servers: Servers) -> None:
    """An RPC is refused before its client has sent anything; and a method with threads of its own goes on."""
    sent = threading.Event()
    with servers.channel("integrated") as channel, servers.channel("bounded") as other:
        release = servers.file()
        rpcs = [call(channel, "Wait", str(release).encode()) for _ in range(CAPACITY)]
        until(lambda: stats(other, "integrated")[0] == CAPACITY)

        def messages() -> Iterator[bytes]:
            sent.wait()
            yield b""

        silent = channel.stream_unary("/test.Test/Task")
        refused = [silent.future(messages(), timeout=2 * PATIENCE) for _ in range(AT_ONCE)]
        try:
            until(lambda: all(rpc.done() for rpc in refused))
            assert {code(rpc) for rpc in refused} == {"RESOURCE_EXHAUSTED"}
            assert call(channel, "Serving").result() == b"serving"
            asked, called = json.loads(call(other, "Noted").result())
            assert call(channel, "Refuse").details() == "refused: full"
            # An interceptor is asked about what the pool refuses, and its handler is not called.
            assert json.loads(call(other, "Noted").result()) == [asked + 1, called]
        finally:
            sent.set()
            release.touch()
        assert {code(rpc) for rpc in rpcs} == {"OK"}
        until(lambda: code(call(channel, "Task")) == "OK")
        no_message = channel.stream_unary("/test.Test/Task").future(iter(()), timeout=PATIENCE)
        assert (code(no_message), code(call(channel, "Parse", b"{"))) == ("UNIMPLEMENTED", "INTERNAL")
        assert call(channel, "Parse", b"{}").result() == b"/test.Test/Parse"


def test_integrated_methods(servers: Servers) -> None:
    """Tasks are named by their method; refusals of any pool that handlers let pass have their status."""
    with servers.channel("integrated") as channel:
        assert call(channel, "Task").result() == b"/test.Test/Task"
        refused = call(channel, "Refuse")
        assert code(refused) == "RESOURCE_EXHAUSTED"
        assert json.loads(call(channel, "Noted").result())[1] >= 1
        assert dict(refused.trailing_metadata())["grpc-retry-pushback-ms"] == "2000"
        labelled = [tuple(pair) for pair in call(channel, "RefuseLabelled").trailing_metadata()]
        assert sorted(labelled) == [("grpc-retry-pushback-ms", "2000"), ("request-id", "7")]
        assert channel.unary_unary("/any/" + 300 * "x")(b"", timeout=PATIENCE) == b"rpc"
        responses = channel.unary_stream("/test.Test/RefuseLater")(b"", timeout=PATIENCE)
        assert next(responses) == b"one"
        assert code(responses) == "RESOURCE_EXHAUSTED"
        assert code(call(channel, "Fail")) == "UNKNOWN"
        assert code(call(channel, "Missing")) == "UNIMPLEMENTED"
        join = channel.stream_unary("/test.Test/Join")
        assert join(iter([b"a", b"b"]), timeout=PATIENCE) == b"a+b"
        watch = channel.unary_stream("/test.Test/Watch")
        assert list(watch(b"one", timeout=PATIENCE)) == [b"one"]
        assert code(watch(b"", timeout=PATIENCE)) == "RESOURCE_EXHAUSTED"


def test_an_executor_that_breaks(servers: Servers) -> None:
    """RPCs that wait while the pool's executor breaks end as UNAVAILABLE, and so do those that come later."""
    with servers.channel("breaking") as channel, servers.channel("integrated") as other:
        waiting = [call(channel, "Task") for _ in range(CAPACITY)]
        until(lambda: stats(other, "breaking")[0] == CAPACITY)
        Path(servers.folder, "break").touch()
        assert {code(rpc) for rpc in waiting} == {"UNAVAILABLE"}
        until(lambda: code(call(channel, "Task")) == "UNAVAILABLE")


def test_an_rpc_that_cannot_be_run(servers: Servers) -> None:
    """The client is not told what is wrong inside of the service; the log is."""
    with servers.channel("unable") as channel:
        rpc = call(channel, "Task")
        assert (code(rpc), rpc.details()) == ("INTERNAL", "the RPC could not be run")
    servers.until_logged("a secret of the service")


def test_no_pool_of_threads() -> None:
    """What can run no RPCs is refused when the server is built, and the message says what to pass."""
    with (
        InstrumentedPool(ProcessPoolExecutor(1), name="processes") as processes,
        InstrumentedPool(ThreadPoolExecutor(1), name="threads") as threads,
        ThreadPoolExecutor(1) as executor,
    ):
        for wrong in (processes, threads.options(task="x"), executor):
            with pytest.raises(TypeError, match="a pool of threads"):
                server(wrong)  # type: ignore[arg-type]


def test_a_pool_stopped_under_its_server(servers: Servers) -> None:
    """RPCs that a stop drops from the queue, and those that come later, end as UNAVAILABLE."""
    with servers.channel("stopped") as channel, servers.channel("integrated") as other:
        release = servers.file()
        waiting = [call(channel, "Wait", str(release).encode()) for _ in range(CAPACITY)]
        until(lambda: stats(other, "stopped")[0] == CAPACITY)
        assert call(other, "Stop", b"stopped").result() == b"stopped"
        until(lambda: sum(rpc.done() for rpc in waiting) == CAPACITY - WORKERS)
        refused = [*(rpc for rpc in waiting if rpc.done()), call(channel, "Task")]
        assert {(code(rpc), rpc.details()) for rpc in refused} == {("UNAVAILABLE", "refused: closed")}
        release.touch()
        assert Counter(map(code, waiting)) == {"OK": WORKERS, "UNAVAILABLE": CAPACITY - WORKERS}


def test_aio(servers: Servers) -> None:
    """grpc.aio runs handlers that are no coroutines in the pool, and survives its being full."""
    with servers.channel("aio") as channel, servers.channel("bounded") as other:
        assert Burst(servers, channel).codes == {"OK": CAPACITY, "UNKNOWN": AT_ONCE - CAPACITY}
        until(lambda: stats(other, "aio")[0] == 0)
        burst = Burst(servers, channel, "Run")
        assert burst.codes == FULL
        assert {rpc.details() for rpc in burst.refused} == {"refused: full"}
        assert all(dict(rpc.trailing_metadata())["grpc-retry-pushback-ms"] for rpc in burst.refused)
        until(lambda: stats(other, "aio")[0] == 0)
        assert call(channel, "Task").result() != b"none"


def test_the_end(tmp_path: Path) -> None:
    """A server that is stopped before its pool answers all RPCs that it has, and the pool drops none."""
    with (
        serving(tmp_path, "integrated", "bounded", end=signal.SIGTERM) as servers,
        servers.channel("integrated") as channel,
        servers.channel("bounded") as other,
    ):
        release = servers.file()
        rpcs = [call(channel, "Wait", str(release).encode()) for _ in range(CAPACITY)]
        until(lambda: stats(other, "integrated")[0] == CAPACITY)
        servers.process.send_signal(signal.SIGTERM)
        until(lambda: code(call(channel, "Task")) == "UNAVAILABLE")
        release.touch()
        assert [code(rpc) for rpc in rpcs] == ["OK"] * CAPACITY
        servers.process.wait(PATIENCE)
    (line,) = [line for line in servers.lines("pool.stopped") if "pool=integrated " in line]
    assert "drained=True" in line
