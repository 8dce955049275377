"""Flask: refused work is answered with 429 or 503."""

from __future__ import annotations

from flask import Flask, Response

from prodpool.errors import RejectedError, TaskExpiredError
from prodpool.integrations.refusals import refusal_of


class FlaskRefusals:
    """A Flask extension that answers with 429 or 503 and ``Retry-After`` where a pool refused the work.

    A handler of the application's own for one of the errors, such as PoolFullError, goes before, and one for
    all of RejectedError if it is registered later. So does a blueprint's for all exceptions. The
    application's own for all exceptions gets a group with other errors in it as the ``original_exception`` of
    an InternalServerError.

    Args:
        app: None if `init_app` is called later.

    Source: flask.palletsprojects.com/en/stable/extensiondev
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register handlers for the refusals, in the views of all blueprints."""
        app.register_error_handler(RejectedError, _answer)
        app.register_error_handler(TaskExpiredError, _answer)
        # Raised by a TaskGroup in an asynchronous view.
        app.register_error_handler(ExceptionGroup, _answer)


def _answer(error: Exception) -> Response:
    refusal = refusal_of(error)
    if refusal is None:
        # A group with other errors in it: a 500, as without this handler.
        raise error
    return Response(refusal.body, refusal.status, list(refusal.headers))
