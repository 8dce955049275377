"""A pool that is used before a fork and after it: ``python -m tests.services.breaker_forking SOCKET``."""

from __future__ import annotations

import os
import sys

import pybreaker
import redis

import prodpool
from prodpool.testing import flush_telemetry
from tests.helpers.waiting import PATIENCE, poll


def fail() -> None:
    raise ConnectionError


def use(pool: prodpool.InstrumentedPool, failures: int) -> None:
    for _ in range(failures):
        pool.submit_wait(fail).exception(PATIENCE)
    assert flush_telemetry(pool, PATIENCE)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def is_open(pool: prodpool.InstrumentedPool) -> bool:
    return pool.stats().breaker == "open"


def main(socket: str) -> int:
    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, redis.Redis(unix_socket_path=socket))
    own = pybreaker.CircuitBreaker(fail_max=3, reset_timeout=600, state_storage=storage)
    with prodpool.threads(name="forking", max_workers=1, breaker=own) as pool:
        use(pool, 1)
        child = os.fork()
        if not child:
            use(pool, 2)
            say(f"child {pool.stats().breaker}")
            pool.stop(PATIENCE)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not poll(lambda: is_open(pool), PATIENCE):
            return 1
        say("parent open")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
