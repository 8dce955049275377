"""Refused work in Django's views, and the database connections of tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from signal import SIGTERM
from typing import Any

import django
import pytest
import urllib3
from asgiref.sync import async_to_sync, sync_to_async
from django.core.checks import run_checks
from django.db import connection, connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

import prodpool
from prodpool import BreakerOpenError, PoolFullError, TaskExpiredError
from prodpool.integrations.django.connections import closing_old_connections
from prodpool.integrations.django.middleware import DjangoRefusals
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import PATIENCE, until
from tests.services.busy_clients import ROOM, WORKERS, Ask, check_refusals, crowd
from tests.services.gunicorn_server import gunicorn
from tests.services.service import listening, service
from tests.support import MakePool

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

REFUSALS = f"{DjangoRefusals.__module__}.{DjangoRefusals.__qualname__}"
CLOSING: dict[str, Any] = {"around": closing_old_connections}
COMMON = "django.middleware.common.CommonMiddleware"
ERRORS: dict[str, Exception] = {
    "full": PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1),
    "breaker_open": BreakerOpenError(pool="orders", retry_after=29.5),
    "expired": TaskExpiredError(pool="orders", task="charge", deadline=1.0, dwell=1.5),
    "bug": ValueError("a bug"),
}


def fail(_request: HttpRequest, error: str) -> HttpResponse:
    raise ERRORS[error]


urlpatterns: list[Any] = [path("<error>", fail)]


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set Django up, once in this process."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DJANGO_SETTINGS_MODULE", "tests.services.django_settings")
        environment.setenv("DATABASE", str(tmp_path_factory.mktemp("django") / "db.sqlite3"))
        django.setup()
        # multiprocessing has a process of its own from the first that it spawns, which stays.
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            executor.submit(int).result(PATIENCE)
        yield


@pytest.mark.parametrize(
    ("error", "status", "seconds"), [("full", 429, 3), ("breaker_open", 503, 30), ("expired", 503, 1)]
)
def test_refused(error: str, status: int, seconds: int) -> None:
    """A refusal in a view tells the client the status, why, and when to come back."""
    answer = Client().get(f"/{error}")
    assert (answer.status_code, answer.json()) == (status, {"reason": error, "retry_after": seconds})
    assert answer["Retry-After"] == str(seconds)
    assert answer["Content-Type"] == "application/json"
    assert answer["Content-Length"] == str(len(answer.content))


def test_other_errors() -> None:
    """Any other error is a 500, as before."""
    assert Client(raise_request_exception=False).get("/bug").status_code == 500


class OwnRefusals(DjangoRefusals):
    """What a project may make of the middleware."""


@pytest.mark.parametrize(
    ("middleware", "warnings"),
    [
        ([COMMON], ["prodpool.W001"]),
        ([COMMON, "no.such.Middleware"], ["prodpool.W001"]),
        ([COMMON, REFUSALS], []),
        ([f"{__name__}.OwnRefusals"], []),
    ],
)
def test_the_check_for_the_middleware(middleware: list[str], warnings: list[str]) -> None:
    """Django's checks warn of a project with the application that has no such middleware."""
    with override_settings(MIDDLEWARE=middleware):
        found = run_checks()
    assert [each.id for each in found if each.id.startswith("prodpool")] == warnings


def opened() -> dict[str, bool]:
    """Tell for each database whether this thread has a connection to it; afterwards it has."""
    found = {}
    for alias in connections:
        found[alias] = connections[alias].connection is not None
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT 1")
    return found


@pytest.mark.parametrize(
    ("options", "left"),
    [({}, {"default": True, "kept": True}), (CLOSING, {"default": False, "kept": True})],
    ids=["without", "with"],
)
def test_connections_between_tasks(
    make_pool: MakePool, options: dict[str, Any], left: dict[str, bool]
) -> None:
    """A worker keeps its connections for ever, or with the option for as long as CONN_MAX_AGE says."""
    pool = make_pool(1, **options)
    assert pool.submit(opened).result(PATIENCE) == {"default": False, "kept": False}
    assert pool.submit(opened).result(PATIENCE) == left


def test_connections_of_worker_processes() -> None:
    """The same in a worker process, in which Django has to be set up."""
    pool = prodpool.processes(
        name="reports", max_workers=1, start_method="spawn", initializer=django.setup, **CLOSING
    )
    with pool:
        assert pool.submit(opened).result(PATIENCE) == {"default": False, "kept": False}
        assert pool.submit(opened).result(PATIENCE) == {"default": False, "kept": True}
    pool.close_metrics()


def test_a_task_that_fails(make_pool: MakePool) -> None:
    """After an error too the connection is closed, and not only by the next task; the error is the task's."""
    pool = make_pool(1, **CLOSING)
    used = []

    def query_and_fail() -> None:
        opened()
        used.append(connections["default"])
        raise TaskError

    assert isinstance(pool.submit(query_and_fail).exception(PATIENCE), TaskError)
    until(lambda: used[0].connection is None)


def test_a_task_in_the_submitting_thread(make_pool: MakePool) -> None:
    """The transaction of a thread that runs a task itself goes on, and what it has written is stored."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs", **CLOSING)
    task = BlockingTask()
    occupy(pool, task, 1)
    try:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE place (name TEXT)")
        with transaction.atomic():
            insert("before")
            pool.submit(insert, "in the task").result(PATIENCE)
            insert("after")
        with connection.cursor() as cursor:
            cursor.execute("SELECT name FROM place")
            assert [name for (name,) in cursor] == ["before", "in the task", "after"]
    finally:
        connection.close()
        task.release()


def insert(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO place VALUES (%s)", [name])


def test_asynchronous_code_in_a_task(make_pool: MakePool) -> None:
    """What a task runs by async_to_sync uses the connections of its worker's thread."""
    pool = make_pool(1, **CLOSING)

    async def ask() -> int:
        return await sync_to_async(threading.get_ident)()

    worker = pool.submit(threading.get_ident).result(PATIENCE)
    assert pool.submit(async_to_sync(ask)).result(PATIENCE) == worker


def check_both_kinds_of_view(ask: Ask, done: Path, processes: int) -> int:
    """Ask for more than there is room for, by views of both kinds; return what was accepted."""
    accepted = check_refusals(ask, done, processes)
    found = crowd(lambda task: ask(f"async/{task}"), "waiting", 40)
    assert set(found) <= {202, 429}, found
    assert found[429] >= 40 - processes * ROOM
    return accepted + found[202]


def test_under_gunicorn(tmp_path: Path) -> None:
    """Clients of a real server get 202 and 429 and nothing else; what was accepted is done when it ends."""
    done = tmp_path / "done"
    done.mkdir()
    with gunicorn(tmp_path, "django_app", workers=WORKERS, DONE=str(done)) as server:
        accepted = check_both_kinds_of_view(server.request, done, WORKERS)
    assert len(list(done.iterdir())) == accepted, server.log()


def test_under_uvicorn(tmp_path: Path) -> None:
    """The same under a server of ASGI, which dies of SIGTERM in the end: the pool is stopped before."""
    done = tmp_path / "done"
    done.mkdir()
    with listening() as (number, port):
        command = ["-m", "uvicorn", f"--fd={number}", "tests.services.django_app:asgi_application"]
        http = urllib3.PoolManager(retries=False, timeout=PATIENCE)
        url = f"http://127.0.0.1:{port}"

        def ask(path: str) -> urllib3.BaseHTTPResponse:
            return http.request("GET", f"{url}/{path}", headers={"Connection": "close"})

        log, env = tmp_path / "uvicorn.log", {"DONE": str(done)}
        with service(command, log, env, [number], SIGTERM, status=-SIGTERM) as served:
            served.until_logged("Uvicorn running on")
            accepted = check_both_kinds_of_view(ask, done, processes=1)
    assert len(list(done.iterdir())) == accepted, log.read_text()
