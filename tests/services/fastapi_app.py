"""A FastAPI application over pools of its lifespan, and one that is not of it: served by the tests beside it.

A task ends when ``release`` is in FOLDER, and leaves a file of its own name there.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request, WebSocket

import prodpool
from prodpool import InstrumentedPool
from prodpool.integrations.fastapi import (
    add_refusal_handlers,
    cancel_on_disconnect,
    pool_lifespan,
    pool_named,
)
from tests.helpers.waiting import until

logging.basicConfig(level=logging.WARNING)
FOLDER = Path(os.environ["FOLDER"])
WORKERS, QUEUE_CAPACITY = 2, 4


def hold(name: str) -> str:
    """Wait for the release."""
    until(Path(FOLDER, "release").exists)
    Path(FOLDER, name).touch()
    return name


def orders() -> InstrumentedPool:
    """Make the pool of threads."""
    return prodpool.threads(name="orders", max_workers=WORKERS, queue_capacity=QUEUE_CAPACITY)


def images() -> InstrumentedPool:
    """Make the pool of worker processes, which leave no file where the server dies of SIGTERM."""
    return prodpool.processes(
        name="images", max_workers=1, queue_capacity=QUEUE_CAPACITY, start_method="spawn"
    )


OUTSIDE = prodpool.threads(name="outside", max_workers=1, queue_capacity=QUEUE_CAPACITY)
app = FastAPI(lifespan=pool_lifespan(orders, images))
add_refusal_handlers(app)
Orders = Annotated[InstrumentedPool, Depends(pool_named("orders"))]
Images = Annotated[InstrumentedPool, Depends(pool_named("images"))]


@app.get("/wait/{name}")
async def wait(name: str, pool: Orders) -> str:
    """Answer when the task is done; refuse if the pool is full."""
    return await asyncio.wrap_future(pool.submit(hold, name))


@app.get("/run/{name}")
async def run(name: str, pool: Orders) -> str:
    """Answer when the task is done."""
    return await pool.run(hold, name)


@app.get("/cancellable/{name}")
async def cancellable(name: str, request: Request, pool: Orders) -> str:
    """Answer when the task is done, or give it up when the client has gone."""
    return await cancel_on_disconnect(request, pool.run(hold, name))


@app.get("/two")
async def two(pool: Orders) -> None:
    """Submit two tasks, of which neither may be refused."""

    async def submit() -> None:
        await asyncio.wrap_future(pool.submit(int))

    async with asyncio.TaskGroup() as group:
        group.create_task(submit())
        group.create_task(submit())


@app.get("/sum/{number}")
async def add(number: int, pool: Orders) -> int:
    """Answer when a short task is done; refuse if the pool is full."""
    return await asyncio.wrap_future(pool.submit(sum, range(number)))


@app.get("/image/{name}", status_code=202)
async def image(name: str, pool: Images) -> None:
    """Leave a task in the pool of worker processes."""
    pool.submit(hold, name)


@app.get("/outside/{name}", status_code=202)
async def outside(name: str) -> None:
    """Leave a task, in the pool that is not of the lifespan, which is done when that is being stopped."""

    def be_done() -> None:
        until(lambda: OUTSIDE.stats().state == "draining")
        Path(FOLDER, name).touch()

    OUTSIDE.submit(be_done)


@app.get("/loop/{name}", status_code=202)
async def loop(name: str, pool: Orders) -> None:
    """Leave a task that needs the event loop when the pool is being stopped."""
    here, done = asyncio.get_running_loop(), Path(FOLDER, name)

    async def save() -> None:
        done.touch()  # noqa: ASYNC240  # it takes no time

    def call_back() -> None:
        until(lambda: pool.stats().state == "draining")
        asyncio.run_coroutine_threadsafe(save(), here).result()

    pool.submit(call_back)


@app.get("/stats")
async def stats(pool: Orders) -> dict[str, int]:
    """Count the tasks of the threads."""
    now = pool.stats()
    return {
        "queued": now.queued,
        "running": now.running,
        "completed": sum(now.completed.values()),
        "cancelled": now.dropped.get(prodpool.Reason.CANCELLED, 0),
        "pid": os.getpid(),
    }


@app.websocket("/socket/{step}")
async def talk(websocket: WebSocket, step: str, pool: Orders) -> None:
    """Refuse the work before the client is accepted, or after."""
    if step == "accepted":
        await websocket.accept()
    pool.submit(int)
