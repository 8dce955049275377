"""Pools that an application builds at import, behind a real gunicorn that forks its workers after that."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.services.gunicorn_server import Gunicorn, gunicorn
from tests.services.service import POOLS

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(180)]
WORKERS = 2


def answers(server: Gunicorn, pool: str, count: int) -> tuple[set[object], set[int]]:
    """Submit so many tasks; return the different answers, and the processes that gave them."""
    found = [json.loads(server.get(pool) or b"null") for _ in range(count)]
    return {answer for answer, _ in found}, {pid for _, pid in found}


def test_pools_built_before_the_fork(tmp_path: Path) -> None:
    """Every pool that was not used before the fork works in each worker, and counts from 0 there."""
    with gunicorn(tmp_path, "wsgi_app", workers=WORKERS) as server:
        workers: set[int] = set()
        for pool in POOLS:
            found, pids = answers(server, pool, 8)
            assert found == {5}
            workers |= pids
        assert server.pid not in workers
        page = server.get("metrics")
        assert page is not None
        counted = re.findall(rb'^workerpool_submitted_total\{pool="(\w+)"\} (\S+)', page, re.MULTILINE)
        assert {name.decode() for name, _ in counted} <= set(POOLS)
        assert 0 < sum(float(number) for _, number in counted) <= 8 * len(POOLS)
    assert "pool.forked" not in server.log()


@pytest.mark.parametrize("used", POOLS)
def test_a_pool_used_before_the_fork(tmp_path: Path, used: str) -> None:
    """It starts anew in each worker where it can, and else says why not, once in each process."""
    with gunicorn(tmp_path, "wsgi_app", workers=WORKERS, USED_POOLS=used) as server:
        found, pids = answers(server, used, 12)
    lines = server.lines("pool.forked")
    if used == "executor":
        assert {str(answer).partition(":")[0] for answer in found} == {"PoolForkedError"}
        assert len(lines) == len(pids)
        assert lines[0].startswith("ERROR:prodpool:pool.forked pool=executor")
        assert "give it a factory" in lines[0]
    else:
        assert (found, lines) == ({5}, []), server.log()
