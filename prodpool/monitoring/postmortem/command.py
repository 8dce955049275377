"""The command `prodpool postmortem`: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prodpool.monitoring.postmortem.pool_history import NoPoolError
from prodpool.monitoring.postmortem.prometheus_api import PrometheusApi, PrometheusApiError
from prodpool.monitoring.postmortem.report import postmortem
from prodpool.monitoring.postmortem.time_range import TimeRangeError, is_relative, read_range
from prodpool.monitoring.thresholds import AlertThresholds, SettingError

DESCRIPTION = """
Write the postmortem template of the runbook, filled with what Prometheus knows of the pools between two
times: what it cost, which alert fired when, what happened in which order, and the size of the pools. What it
cannot know is left as a question. A time is one such as 2026-11-30T14:05:00Z, now, now-2h or -90m; one
without a zone is in UTC.
"""
ERRORS = (NoPoolError, PrometheusApiError, SettingError, TimeRangeError)
_TIMES = ("--from", "--to")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "--prometheus",
        required=True,
        metavar="URL",
        help="such as http://prometheus:9090, or https://user:password@host/prefix",
    )
    add("--from", dest="start", required=True, metavar="TIME", help="when it began, or a bit earlier")
    add("--to", dest="end", default="now", metavar="TIME", help="when it was over (default: now)")
    add("--pool", action="append", default=[], metavar="NAME", help="only this pool; may be repeated")
    add("--job", action="append", default=[], metavar="NAME", help="only pools of this job; may be repeated")
    add(
        "--slo",
        type=float,
        default=AlertThresholds().slo,
        metavar="N",
        help="share of the tasks that are to end well, over 30 days (default: %(default)s)",
    )
    add(
        "--header",
        action="append",
        type=_header,
        default=[],
        metavar="'NAME: VALUE'",
        help="sent with each request, such as 'Authorization: Bearer ...'; may be repeated",
    )
    add("--timeout", type=_seconds, default=30.0, metavar="SECONDS", help="for each answer (default: 30)")
    add("--output", type=Path, metavar="FILE", help="write there, and not to standard output")
    add("--force", action="store_true", help="overwrite FILE")


def joined(arguments: Sequence[str] | None) -> list[str]:
    """Return the arguments with `--from -2h` as `--from=-2h`: argparse takes `-2h` for an option."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    for number in range(len(given) - 1, 0, -1):
        if given[number - 1] in _TIMES and is_relative(given[number]):
            given[number - 1 : number + 1] = [f"{given[number - 1]}={given[number]}"]
    return given


def run(chosen: argparse.Namespace) -> int:
    """Write the postmortem that was asked for; return 0.

    Raises:
        NoPoolError, PrometheusApiError, SettingError, TimeRangeError: The message says what to do.
        OSError: The file is there already, or cannot be written.
    """
    output: Path | None = chosen.output
    if output is not None and output.exists() and not chosen.force:
        raise FileExistsError(f"{output}: there already: add --force to overwrite, or choose another FILE")
    slo = AlertThresholds(slo=chosen.slo).slo
    now = datetime.now(UTC)
    when = read_range(chosen.start, chosen.end, now)
    api = PrometheusApi(chosen.prometheus, dict(chosen.header), chosen.timeout)
    text = postmortem(api, when, pools=chosen.pool, jobs=chosen.job, slo=slo, now=now)
    if output is None:
        sys.stdout.write(text)
    else:
        # "x": a file that came since is not overwritten either.
        with output.open("w" if chosen.force else "x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    return 0


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip() or not text.isprintable():
        # Without the value, which may be a secret.
        raise argparse.ArgumentTypeError(
            "pass one of the form 'Name: value', such as 'Authorization: Bearer ...'"
        )
    return name.strip(), value.strip()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:  # noqa: PLR2004  # what urllib takes as well
        raise argparse.ArgumentTypeError(f"{text!r}: pass a number of seconds above 0, such as 30")
    return seconds
