"""The command `prodpool`: files to export, the triage of an incident, and its postmortem."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prodpool.monitoring.export import KINDS, NoFilesError, render_files
from prodpool.monitoring.formatting import decimal
from prodpool.monitoring.pool_thresholds import read_pools
from prodpool.monitoring.postmortem import command as postmortem_command
from prodpool.monitoring.selectors import SelectorError
from prodpool.monitoring.thresholds import AlertThresholds, SettingError, options
from prodpool.monitoring.triage import commands as triage_commands
from prodpool.version import __version__

_EXPORT = """
Write the dashboards (Grafana), the alert rules (Prometheus, its Kubernetes operator, jsonnet; with routes for
Alertmanager) or the runbook into DIR, or all of them into folders of DIR. The runbook is written for the same
thresholds as the rules, the dashboards for the same objective. No file is overwritten unless --force is
given; without it either all files are written or none.
"""
# May be given several times, which is the same as once with commas.
_REPEATED = {"namespace_label"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments given, by default those of the process; return its exit status.

    Raises:
        SystemExit: With status 2 for arguments that do not fit, and 0 after ``--help`` and ``--version``.
    """
    parser = argparse.ArgumentParser(prog="prodpool", description="Tools for those who run worker pools.")
    parser.add_argument("--version", action="version", version=f"prodpool {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    export = commands.add_parser(
        "export", help="write dashboards, alert rules and runbook", description=_EXPORT, allow_abbrev=False
    )
    _add_export_arguments(export)
    triage_commands.add_parsers(commands)
    incident = commands.add_parser(
        "postmortem",
        help="write what Prometheus knows of an incident",
        description=postmortem_command.DESCRIPTION,
        allow_abbrev=False,
    )
    postmortem_command.add_arguments(incident)
    chosen = parser.parse_args(postmortem_command.joined(argv))
    if chosen.command in triage_commands.COMMANDS:
        return triage_commands.run(chosen)
    if chosen.command == "postmortem":
        return _postmortem(chosen, incident)
    try:
        return _export(chosen)
    except (SettingError, SelectorError, NoFilesError, OSError) as error:
        export.error(_told(error))


def _postmortem(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        return postmortem_command.run(chosen)
    except (*postmortem_command.ERRORS, OSError) as error:
        parser.error(_told(error, "FILE"))


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=(*KINDS, "all"), metavar="|".join((*KINDS, "all")))
    parser.add_argument("dir", type=Path, metavar="DIR", help="made if it is not there")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    for name, default, kind, metavar, text in options():
        shown = ",".join(map(decimal, default)) if isinstance(default, tuple) else default
        shown = decimal(shown) if isinstance(shown, float) else shown
        how: dict[str, Any] = {"action": "append"} if name in _REPEATED else {"default": default}
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=_reader(kind, shown),
            **how,
            metavar=metavar,
            help=f"{text} (default: {shown if shown != '' else 'none'})".replace("%", "%%"),
        )
    parser.add_argument(
        "--pool",
        action="append",
        default=[],
        metavar="NAME:THRESHOLD=VALUE,...",
        help="thresholds of one pool alone, such as mail:dwell=60,duration=30; may be given several times "
        "(default: none)",
    )
    parser.add_argument(
        "--pools",
        type=Path,
        metavar="FILE",
        help="the same from a TOML file that has a table for each pool, such as [mail] (default: none)",
    )


def _reader(kind: Callable[[str], Any], example: object) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            number = "a whole number" if kind is int else "a number" if kind is float else "numbers"
            raise argparse.ArgumentTypeError(f"{text!r}: pass {number}, such as {example}") from None

    return read


def _export(chosen: argparse.Namespace) -> int:
    values = {name: getattr(chosen, name) for name, *_ in options()}
    values |= {name: ",".join(values[name] or ()) for name in _REPEATED}
    settings = AlertThresholds(**values, pools=read_pools(chosen.pool, chosen.pools))
    texts = {chosen.dir / name: text for name, text in render_files(chosen.kind, settings).items()}
    there = [str(path) for path in texts if path.exists()]
    if there and not chosen.force:
        raise FileExistsError(
            f"{', '.join(there)}: there already, so nothing was written: add --force to overwrite, or choose "
            "another DIR"
        )
    _write(texts, force=chosen.force)
    print("\n".join(map(str, texts)))  # noqa: T201  # what the command is for
    return 0


def _write(texts: dict[Path, str], *, force: bool) -> None:
    """Write all files; if one fails, remove the new ones, though files that were overwritten stay so."""
    written: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # "x": a file that came since is not overwritten either.
            with path.open("w" if force else "x", encoding="utf-8", newline="\n") as file:
                written.append(path)
                file.write(text)
    except OSError:
        for path in [] if force else written:
            path.unlink(missing_ok=True)
        raise


def _told(error: Exception, place: str = "DIR") -> str:
    if isinstance(error, OSError) and error.filename is not None:
        way_out = f"choose another {place}, or make it one that can be written to"
        return f"{error.filename}: {error.strerror}: {way_out}"
    return str(error)
