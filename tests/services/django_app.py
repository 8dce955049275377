"""A Django project over `busy_pool`, in one module: served by the tests beside it, by WSGI and by ASGI.

``/sync/NAME`` and ``/async/NAME`` submit a task from a view of that kind.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.services.busy_pool import submit

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "prodpool.integrations.django.middleware.DjangoRefusals",
    "django.middleware.common.CommonMiddleware",
]

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["127.0.0.1", "testserver"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["prodpool.integrations.django"],
        MIDDLEWARE=MIDDLEWARE,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
        LOGGING_CONFIG=None,
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


urlpatterns: list[Any] = [
    path("sync/<task>", accept),
    path("async/<task>", accept_async),
    path("<task>", accept),
]
application = get_wsgi_application()
asgi_application = get_asgi_application()
