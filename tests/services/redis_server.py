"""A real redis-server on a socket in a folder of its own, and what makes it slow or silent."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.helpers.waiting import PATIENCE, until
from tests.support import missing


class RedisServer:
    """A redis-server that forgets all when it is stopped. No service of Debian's is used."""

    def __init__(self, folder: Path) -> None:
        self._program = shutil.which("redis-server") or missing(
            "redis-server", "run: apt-get install redis-server"
        )
        self.socket = folder / "redis"
        self._process: subprocess.Popen[bytes] | None = None

    def client(self, socket: Path | None = None) -> redis.Redis:
        """Connect to it, directly or by way of another socket; a command that fails is not tried again."""
        path = str(self.socket if socket is None else socket)
        return redis.Redis(unix_socket_path=path, retry=Retry(NoBackoff(), 0))

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"],
            cwd=self.socket.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with self.client() as client:
            until(lambda: answers(client))

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


class SlowProxy:
    """Passes on what clients and a Redis say to each other; each reply comes late, or not at all."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.socket = folder / "slow"
        self.delay = 0.0  # seconds
        self.requests = 0
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._replies = asyncio.Event()
        self._replies.set()
        self._end = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-proxy")

    def hold(self) -> None:
        """Send no reply from now on."""
        self._loop.call_soon_threadsafe(self._replies.clear)

    def release(self) -> None:
        """Send the replies that were held, and those to come."""
        self._loop.call_soon_threadsafe(self._replies.set)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connect, self.socket)
        async with server:
            self._ready.set()
            await self._end.wait()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            replies, requests = await asyncio.open_unix_connection(self._server.socket)
            with closing(requests):
                done, pending = await asyncio.wait(
                    [
                        asyncio.create_task(self._pass_on(reader, requests)),
                        asyncio.create_task(self._pass_back(replies, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for each in pending:
                    each.cancel()
                await asyncio.gather(*done, *pending, return_exceptions=True)
        except (OSError, asyncio.CancelledError):  # there is no server, or the test ends
            return
        finally:
            writer.close()
            self._connections.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.requests += 1
            writer.write(data)

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay)
            await self._replies.wait()
            writer.write(data)


@contextmanager
def redis_server() -> Iterator[tuple[RedisServer, SlowProxy]]:
    """Run a server with a proxy before it until the block ends."""
    # Not the test's own folder: the path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory() as name:
        server = RedisServer(Path(name))
        proxy = SlowProxy(Path(name), server)
        try:
            server.start()
            proxy.start()
            try:
                yield server, proxy
            finally:
                proxy.release()
                proxy.stop()
        finally:
            server.stop()
