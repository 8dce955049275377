"""What may stand behind an option of a command line; argparse turns the errors into its usage message."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit


def count(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least`` to ``most``."""
    bounds = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {bounds}")
        return value

    return read


def seconds(*, positive: bool = False, finite: bool = True) -> Callable[[str], float]:
    """Return a reader of durations; one that is not ``finite`` may be "inf", for never."""
    bounds = ("more than 0" if positive else "0 or more") + ("" if finite else ', or "inf"')

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # A NaN fails every comparison.
        if not (value > 0 or (value == 0 and not positive)) or (finite and math.isinf(value)):
            raise argparse.ArgumentTypeError(f"{text!r} is no time in seconds: {bounds}")
        return value

    return read


def output_file(text: str) -> Path:
    """Read the path of a file that is written to, in a folder that exists."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no file in a folder that exists")
    return path


def output_folder(text: str) -> Path:
    """Read the path of a folder, and make it if it is not there."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no folder and cannot be made: {error.strerror}"
        ) from None
    return path


def target(text: str) -> tuple[str, str]:
    """Read ``NAME=URL``."""
    name, _, url = text.partition("=")
    parts = urlsplit(url)
    if not name.isidentifier() or parts.scheme not in {"http", "https"} or not parts.hostname:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=URL, such as acme=http://127.0.0.1:9000/hooks"
        )
    return name, url


port = count(0, 65535)
