"""Settings of Django for `test_django`, in its process and in worker processes of pools."""

from __future__ import annotations

import os

ROOT_URLCONF = "tests.services.test_django"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = ["prodpool.integrations.django"]
MIDDLEWARE = [
    "prodpool.integrations.django.middleware.DjangoRefusals",
    "django.middleware.common.CommonMiddleware",
]
LOGGING_CONFIG = None
_FILE = {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}
DATABASES = {
    "default": {**_FILE, "CONN_MAX_AGE": 0},
    "kept": {**_FILE, "CONN_MAX_AGE": None},
}
