"""Tests of what services run on, which is installed for one interpreter only (see tools/run_tests.py)."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("gunicorn") else ["test_*.py"]
