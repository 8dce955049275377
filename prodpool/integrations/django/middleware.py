"""The middleware that answers refused work."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.utils.deprecation import MiddlewareMixin

from prodpool.integrations.refusals import refusal_of


class DjangoRefusals(MiddlewareMixin):  # type: ignore[misc]  # Django has no annotations
    """Answers with 429 or 503 and ``Retry-After`` where a pool refused the work of a view.

    For synchronous and asynchronous views. Its place in ``MIDDLEWARE`` does not matter, unless another
    middleware after it answers all exceptions. An error in another middleware, or while a streaming response
    is sent, does not reach it.

    Source: docs.djangoproject.com/en/stable/topics/http/middleware/#process-exception
    """

    def process_exception(self, _request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the answer if ``exception`` is a refusal; None for Django to go on with any other."""
        refusal = refusal_of(exception)
        if refusal is None:
            return None
        return HttpResponse(refusal.body, status=refusal.status, headers=dict(refusal.headers))
