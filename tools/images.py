"""Write pictures of the dashboards: ``python -m tools.images [--seconds N] [--only FILE] [FOLDER]``.

A busy service of two instances runs for that long, a real Prometheus scrapes it, and what each panel would
ask is asked and drawn.
"""

from __future__ import annotations

import argparse
import struct
import tempfile
import time
import zlib
from pathlib import Path

from tests.dashboards.boards import FILES, View
from tests.observe.prometheus import Prometheus
from tests.observe.rig import JOB, RULES, WARM, busy_services
from tools.draw import ROOT, bundle, page, picture

# The pool whose troubles show most on the dashboard that is about one.
POOL = "image_resize"
# Of the overview the README shows the panels that fit a screen: so many of its lines of pixels.
TOP = 925


def main(seconds: int, files: list[str], target: Path) -> None:
    """Let the service run for ``seconds``, then draw each of the dashboards into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "rules.yml").write_text(RULES)
        bundle(folder)
        with (
            busy_services(folder, 2) as addresses,
            Prometheus(folder, {JOB: addresses}, rule_files=[folder / "rules.yml"]) as prometheus,
        ):
            prometheus.wait_for(WARM, timeout=120)
            prometheus.wait_for(f"min(time() - process_start_time_seconds) > {seconds}", timeout=seconds + 60)
            end = float(int(time.time()))
            for file in files:
                view = View({"pool": POOL} if file == "pool" else {}, seconds=seconds - 5, points=seconds)
                drawn = picture(page(prometheus, file, view, end), folder, target / f"{file}.png")
                print(f"{file}.png: {drawn.panels} panels, {drawn.empty} of them empty")
    if "overview" in files:
        (target / "overview-top.png").write_bytes(top((target / "overview.png").read_bytes(), TOP))


def top(png: bytes, lines: int) -> bytes:
    """Return the first ``lines`` of a picture of 8 bits a channel, not interlaced.

    A line is coded by what is left of it and above it, so the first ones stay as they are.
    Source: the PNG specification, www.w3.org/TR/png-3
    """
    width, height, depth, colour, packing, coding, interlaced = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlaced) == (8, 0)  # noqa: S101  # as chromium writes them
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    data, at = b"", 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    cut = zlib.decompress(data)[: min(lines, height) * (1 + width * channels)]
    head = struct.pack(">IIBBBBB", width, min(lines, height), depth, colour, packing, coding, interlaced)
    return png[:8] + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(cut, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--seconds", type=int, default=180, help="how long the service runs first")
    parser.add_argument("--only", choices=FILES, help="one dashboard instead of all")
    chosen = parser.parse_args()
    main(chosen.seconds, [chosen.only] if chosen.only else list(FILES), chosen.folder)
