"""Refused work in Flask's views, and tasks that use the application's context."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Blueprint, Flask

from prodpool import BreakerOpenError, PoolClosedError, PoolFullError, RejectedError, TaskExpiredError
from prodpool.integrations.flask import FlaskRefusals
from prodpool.integrations.wsgi import WSGIRefusals
from tests.helpers.waiting import until_collected
from tests.services.busy_clients import check_under_gunicorn

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

FULL = PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1)
OPEN = BreakerOpenError(pool="orders", retry_after=29.5)
EXPIRED = TaskExpiredError(pool="orders", task="charge", deadline=1.0, dwell=1.5)


def raising(error: Exception, app: Flask | None = None) -> Flask:
    """Return an application with a view ``/`` and a blueprint's view ``/orders``, which both raise."""
    app = app or Flask("raising")
    blueprint = Blueprint("orders", __name__)

    @app.get("/")
    @blueprint.get("/orders")
    def fail() -> str:
        raise error

    app.register_blueprint(blueprint)
    return app


@pytest.mark.parametrize("path", ["/", "/orders"])
@pytest.mark.parametrize(
    ("error", "status", "reason", "seconds"),
    [
        (FULL, 429, "full", 3),
        (OPEN, 503, "breaker_open", 30),
        (EXPIRED, 503, "expired", 1),
        (ExceptionGroup("two tasks", [FULL, OPEN]), 503, "breaker_open", 30),
    ],
)
def test_refused(path: str, error: Exception, status: int, reason: str, seconds: int) -> None:
    """A refusal in a view, of a blueprint too, tells the client the status, why, and when to come back."""
    app = raising(error)
    FlaskRefusals(app)
    answer = app.test_client().get(path)
    assert (answer.status_code, answer.json) == (status, {"reason": reason, "retry_after": seconds})
    assert answer.headers["Retry-After"] == str(seconds)
    assert answer.headers.getlist("Content-Type") == ["application/json"]
    assert answer.headers.getlist("Content-Length") == [str(len(answer.data))]
    assert app.test_client().head(path).data == b""


@pytest.mark.parametrize("error", [ValueError("a bug"), ExceptionGroup("one is a bug", [FULL, ValueError()])])
def test_other_errors(error: Exception) -> None:
    """Any other error is a 500, which the application may answer as before."""
    app = raising(error)
    FlaskRefusals(app)
    assert app.test_client().get("/").status_code == 500
    app = raising(error)
    FlaskRefusals(app)
    app.register_error_handler(500, lambda server_error: (str(server_error.original_exception), 500))
    assert app.test_client().get("/").text == str(error)


def test_a_handler_of_the_applications_own() -> None:
    """One for a refusal of its kind goes before, and one for all refusals if it is registered later."""

    def come_back(_: Exception) -> tuple[str, int]:
        return "come back", 420

    app = raising(FULL)
    app.register_error_handler(PoolFullError, come_back)
    FlaskRefusals(app)
    assert app.test_client().get("/").status_code == 420
    app = raising(FULL)
    FlaskRefusals(app)
    app.register_error_handler(RejectedError, come_back)
    assert app.test_client().get("/").status_code == 420
    app = raising(FULL)
    FlaskRefusals(app)
    app.register_error_handler(Exception, come_back)
    assert app.test_client().get("/").status_code == 429


def test_outside_of_views() -> None:
    """Before the view it is answered; after it is a 500. WSGIRefusals answers one that begins a stream."""

    def refuse(*_: object) -> None:
        raise FULL

    def refuse_later() -> Iterator[bytes]:
        raise FULL
        yield b""

    for register, status in ((Flask.before_request, 429), (Flask.after_request, 500)):
        app = Flask("raising")
        FlaskRefusals(app)
        app.add_url_rule("/", view_func=lambda: "answered")
        register(app, refuse)
        assert app.test_client().get("/").status_code == status
    app = Flask("streaming")
    FlaskRefusals(app)
    app.add_url_rule("/", view_func=refuse_later)
    with pytest.raises(PoolFullError):
        app.test_client().get("/")
    app.wsgi_app = WSGIRefusals(app.wsgi_app)  # type: ignore[method-assign]
    assert app.test_client().get("/").status_code == 429


def test_a_group_with_other_errors() -> None:
    """The application's handler for all exceptions gets it as the origin of an InternalServerError."""
    error = ExceptionGroup("one is a bug", [FULL, ValueError()])
    app = raising(error)
    FlaskRefusals(app)
    app.register_error_handler(Exception, lambda got: (str(got.original_exception), 418))
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.text) == (418, str(error))


def test_an_asynchronous_view() -> None:
    """Refusals of the tasks of a TaskGroup are answered as one."""
    app = Flask("asynchronous")
    FlaskRefusals().init_app(app)

    async def refuse() -> None:
        raise PoolClosedError(pool="orders")

    @app.get("/")
    async def fail() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(refuse())
            group.create_task(refuse())
        return ""

    threads = threading.active_count()
    assert json.loads(app.test_client().get("/").data)["reason"] == "closed"
    # asgiref's thread for the event loop ends with the error in whose stack it is.
    until_collected(lambda: threading.active_count() == threads)


def test_under_gunicorn(tmp_path: Path) -> None:
    """Clients of a real server get 202 and 429 and nothing else; what was accepted is done when it ends."""
    check_under_gunicorn(tmp_path, "flask_app")
