"""Sessions of the real Flask-SQLAlchemy in tasks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, has_request_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from prodpool import InstrumentedPool
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

db: Any = SQLAlchemy()


class Order(db.Model):  # type: ignore[misc]  # Flask-SQLAlchemy makes the class
    id: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    """Return an application with a table of orders in a file, and no order."""
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'shop.db'}"
    # For the lock on the file, which a busy machine may hold for long.
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {"connect_args": {"timeout": PATIENCE}}
    db.init_app(app)
    with app.app_context():
        db.create_all()
    yield app
    db.session.registry.registry.clear()  # what the tasks of one test leave behind
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def pool(app: Flask, make_pool: MakePool) -> InstrumentedPool:
    """Return a pool of four threads with the options that the guide gives."""
    return make_pool(4, queue_capacity=100, context="empty", around=app.app_context)


def new_order() -> int:
    """Store an order; return its number."""
    order = Order(state="new")
    db.session.add(order)
    db.session.commit()
    return order.id


def states() -> list[str]:
    """Return the states of all orders."""
    return [order.state for order in db.session.query(Order)]


def left(app: Flask) -> tuple[int, int]:
    """Return how many sessions there are, and how many connections they hold, besides a new request's."""
    with app.app_context():
        return len(db.session.registry.registry), db.engine.pool.checkedout()


def test_what_the_options_are_for(app: Flask, make_pool: MakePool) -> None:
    """Without them a task works in the session of the request; after its end, in one that nobody closes."""
    pool = make_pool(1, queue_capacity=2)
    task = BlockingTask()
    with app.test_request_context():
        number = new_order()
        assert pool.submit(db.session).result(PATIENCE) is db.session()
        occupy(pool, task, 1)
        late = pool.submit(lambda: db.session.get(Order, number).state)
    assert left(app) == (0, 0)
    task.release()
    assert late.result(PATIENCE) == "new"
    assert left(app) == (1, 1)


def test_a_session_for_each_task(app: Flask, pool: InstrumentedPool) -> None:
    """Tasks that run at once, beside a request and after it, have sessions of their own, which are closed."""
    together = threading.Barrier(5)

    def pay(number: int) -> tuple[object, bool, str]:
        together.wait(PATIENCE)  # four tasks and the request, each with its session
        session = db.session()
        db.session.get(Order, number).state = "paid"
        db.session.commit()
        return session, has_request_context(), current_app.name

    with app.test_request_context():
        numbers = [new_order() for _ in range(8)]
        futures = [pool.submit(pay, number) for number in numbers]
        together.wait(PATIENCE)
        new_order()
        sessions = [db.session()]
    together.wait(PATIENCE)
    results = [future.result(PATIENCE) for future in futures]
    sessions += [session for session, _, _ in results]
    assert len(set(sessions)) == 9
    assert {(request, name) for _, request, name in results} == {(False, "shop")}
    with app.app_context():
        assert states() == ["paid"] * 8 + ["new"]
    assert left(app) == (0, 0)


def test_a_task_that_fails(app: Flask, pool: InstrumentedPool) -> None:
    """What it has not committed is rolled back, and the application's teardown functions get its error."""
    ends: list[BaseException | None] = []
    app.teardown_appcontext(ends.append)

    def fail() -> None:
        db.session.add(Order(state="half done"))
        db.session.flush()
        raise error

    error = TaskError()
    assert pool.submit(fail).exception(PATIENCE) is error
    assert ends == [error]
    assert left(app) == (0, 0)
    with app.app_context():
        assert states() == []
