"""The commands of the triage: `log` sums up a service's log, `stacks` the stacks of its tasks."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from prodpool.monitoring.triage.log_summary import log_table
from prodpool.monitoring.triage.stacks import stacks_table

_LOG = """
Read a service's log from the standard input, count the warnings and errors about pools by event, pool and
task, and say what hung tasks wait for. Lines are JSON, or have key=value in them; all others are passed over:
kubectl logs deployment/SERVICE --since=30m | prodpool log
"""
_STACKS = """
Read stacks from the standard input, a dump of py-spy or what pool.dump() returns, and count what the tasks in
them wait for, and where: kubectl exec POD -- py-spy dump --pid 1 | prodpool stacks
"""
COMMANDS: dict[str, tuple[str, str, Callable[[Iterable[str]], list[str]]]] = {
    "log": ("sum up what a log says about pools", _LOG, log_table),
    "stacks": (
        "sum up what tasks wait for, by their stacks", _STACKS, lambda lines: stacks_table("".join(lines))
    ),
}  # fmt: skip


_NOTHING = {
    "log": "prodpool log: there is no warning and no error about a pool in what was read",
    "stacks": "prodpool stacks: there is no stack of a running task in what was read; it takes a plain dump "
    "of py-spy (without --json), with --subprocesses for worker processes, or what pool.dump() returns",
}


def add_parsers(commands: Any) -> None:
    """Add them to the subcommands of a parser."""
    for name, (text, description, _) in COMMANDS.items():
        commands.add_parser(name, help=text, description=description, allow_abbrev=False)


def run(chosen: argparse.Namespace) -> int:
    """Run the one that was chosen and return its exit status: 1 if it has found nothing."""
    _, _, made = COMMANDS[chosen.command]
    with open(0, encoding="utf-8", errors="replace", closefd=False) as lines:
        told = made(lines)
    if len(told) == 1:
        # The heads of the columns alone. It may be the wrong input, of which nothing can be concluded.
        print(_NOTHING[chosen.command], file=sys.stderr)  # noqa: T201
        return 1
    try:
        print("\n".join(told), flush=True)  # noqa: T201  # what the command is for
    except BrokenPipeError:
        # `| head` has read enough. At its exit Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
