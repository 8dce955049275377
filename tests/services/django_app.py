"""A Django project over `busy_pool`, in one module: served by the tests beside it, by WSGI and by ASGI.

``/NAME`` submits a task from a synchronous view, ``/async/NAME`` from an asynchronous one.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.services.busy_pool import POOL, submit

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["prodpool.integrations.django"],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "prodpool.integrations.django.middleware.DjangoRefusals",
        "django.middleware.common.CommonMiddleware",
    ],
)
django.setup()


def accept(_request: HttpRequest, task: str) -> HttpResponse:
    """Submit a task."""
    submit(f"/{task}")
    return HttpResponse("accepted", status=HTTPStatus.ACCEPTED)


async def accept_async(_request: HttpRequest, task: str) -> HttpResponse:
    """Submit a task from an event loop."""
    submit(f"/{task}")
    return HttpResponse("accepted", status=HTTPStatus.ACCEPTED)


urlpatterns: list[Any] = [path("<task>", accept), path("async/<task>", accept_async)]
application = get_wsgi_application()
django_application = get_asgi_application()


async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
    """Stop the pool when the server ends, which Django says nothing of."""
    if scope["type"] != "lifespan":
        await django_application(scope, receive, send)
        return
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await POOL.stop_async()
    await send({"type": "lifespan.shutdown.complete"})
