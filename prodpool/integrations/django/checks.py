"""What ``manage.py check`` says about the settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import Warning as CheckWarning
from django.utils.module_loading import import_string

from prodpool.integrations.django.middleware import DjangoRefusals

_PATH = f"{DjangoRefusals.__module__}.{DjangoRefusals.__qualname__}"


def check_middleware(**_: Any) -> list[CheckWarning]:
    """Warn if no middleware answers refusals, so that each is a 500 and an error in the log."""
    if any(_answers_refusals(path) for path in settings.MIDDLEWARE):
        return []
    return [
        CheckWarning(
            "Work that a pool refuses is answered with 500.",
            hint=f"Add {_PATH!r} to MIDDLEWARE, or silence this check if the views catch RejectedError.",
            id="prodpool.W001",
        )
    ]


def _answers_refusals(path: str) -> bool:
    try:
        middleware = import_string(path)
    except ImportError:
        return False  # Django says so itself when it loads the middleware
    return isinstance(middleware, type) and issubclass(middleware, DjangoRefusals)
