"""Run the experiments, print the figures and, when asked, keep them in the README."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import depth, handoff, memory, multiprocess, report, speed, watching
from benchmarks.scale import FULL, QUICK, Scale

EXPERIMENTS: dict[str, Callable[[Scale], list[report.Row]]] = {
    "throughput": speed.throughput,
    "latency": speed.latency,
    "memory": memory.bytes_waiting,
    "depth": depth.many_waiting,
    "workers": speed.many_workers,
    "watchdog": watching.watchdog,
    "multiprocess": multiprocess.writer,
    "processes": handoff.throughput,
    "processes-latency": handoff.latency,
    "processes-large": handoff.large_calls,
    "processes-long": handoff.long_tasks,
    "processes-mixed": handoff.mixed_tasks,
    "dwell": handoff.dwell,
}


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; the exit status says nothing about targets, only about errors."""
    options = _parser().parse_args(arguments)
    scale = QUICK if options.quick else FULL
    if options.rounds:
        scale = replace(scale, rounds=options.rounds)
    rows: list[report.Row] = []
    for name in options.only or EXPERIMENTS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += EXPERIMENTS[name](scale)
    print(report.table(rows))
    if options.json:
        options.json.write_text(json.dumps(report.as_data(rows), indent=2), encoding="utf-8")
    if options.write:
        report.write(rows, _command(options))
    return 0


def _command(options: argparse.Namespace) -> str:
    """Return the command that takes the same figures again."""
    words = ["python -m benchmarks"]
    words += [f"--only {name}" for name in options.only or ()]
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    return " ".join(words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: runs every line, measures nothing")
    parser.add_argument("--only", action="append", choices=EXPERIMENTS, help="run this experiment only")
    parser.add_argument("--rounds", type=int, help=f"rounds per experiment (default {FULL.rounds})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--write", action="store_true", help="keep the figures in benchmarks/README.md")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
