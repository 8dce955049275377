"""The dashboards are what Grafana's published types say that a dashboard is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.dashboards.boards import FILES, FOLDER
from tests.dashboards.web import SOURCE, installed

pytestmark = pytest.mark.once

OPTIONS = {
    "strict": True,
    "noEmit": True,
    "module": "esnext",
    "moduleResolution": "bundler",
    "target": "es2022",
    "lib": ["es2022", "dom"],
    "types": [],
    "skipLibCheck": True,
}


def complaints(folder: Path, boards: dict[str, str]) -> list[str]:
    """Return what the TypeScript compiler has to say about the text of dashboards."""
    web = installed()
    (folder / "node_modules").symlink_to(web / "node_modules")
    (folder / "board.ts").write_text((SOURCE / "board.ts").read_text())
    checks = [f"export const {name} = {text.strip()} satisfies Board;" for name, text in boards.items()]
    (folder / "check.ts").write_text("\n".join(["import type { Board } from './board';", *checks]))
    (folder / "tsconfig.json").write_text(json.dumps({"compilerOptions": OPTIONS, "files": ["check.ts"]}))
    compiler = web / "node_modules" / "typescript" / "bin" / "tsc"
    command = [str(web / "bin" / "node"), str(compiler), "-p", str(folder)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert (done.returncode == 0) is (not done.stdout), done.stderr
    return done.stdout.splitlines()


def test_they_have_grafanas_types(tmp_path: Path) -> None:
    """Every field, option and enumerated value is one that Grafana knows."""
    boards = {file: (FOLDER / f"{file}.json").read_text() for file in FILES}
    assert complaints(tmp_path, boards) == []


def test_what_grafana_does_not_know_is_found(tmp_path: Path) -> None:
    """A wrong number, word, type or name, in the dashboard or deep in a panel, is a complaint each."""
    text = (FOLDER / "overview.json").read_text()
    wrongs = [
        ('"graphTooltip": 1', '"graphTooltip": 7'),
        ('"colorMode": "value"', '"colourMode": "value"'),
        ('"showPoints": "never"', '"showPoints": "seldom"'),
        ('"lineWidth": 1', '"lineWidth": "1"'),
        ('"mode": "absolute"', '"mode": "relative"'),
    ]
    boards: dict[str, str] = {}
    for number, (right, wrong) in enumerate(wrongs):
        assert right in text
        boards[f"wrong{number}"] = text.replace(right, wrong, 1)
    found = complaints(tmp_path, boards)
    at = {line.partition("(")[2].partition(",")[0] for line in found}
    assert len(at) == len(wrongs), found
