"""The application for ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from prodpool.integrations.django.checks import check_middleware


class ProdpoolConfig(AppConfig):  # type: ignore[misc]  # Django has no annotations
    """Registers the checks of ``manage.py check``."""

    name = "prodpool.integrations.django"
    label = "prodpool"
    verbose_name = "prodpool"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_middleware)
