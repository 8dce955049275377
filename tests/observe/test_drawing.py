"""A dashboard can be drawn from its JSON and live answers."""

from __future__ import annotations

import shutil
import struct
import time
from pathlib import Path

import pytest

from tests.dashboards.boards import View, board, panels
from tests.dashboards.web import installed
from tests.observe.prometheus import Prometheus
from tests.support import missing
from tools.draw import WIDTH, DrawingError, Drawn, bundle, page, picture

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]


@pytest.mark.long
def test_a_dashboard_is_drawn(prometheus: Prometheus, tmp_path: Path) -> None:
    """Every panel of a dashboard has data and something painted; one that cannot be drawn is an error."""
    installed()
    if shutil.which("chromium") is None:
        missing("chromium", "run: apt-get install chromium")
    bundle(tmp_path)
    shown = page(prometheus, "capacity", View(seconds=60), time.time())
    assert [panel["id"] for panel in shown["panels"]] == [
        panel["id"] for panel in board("capacity")["panels"]
    ]
    target = tmp_path / "capacity.png"
    assert picture(shown, tmp_path, target) == Drawn(panels=len(panels("capacity")), empty=0, blank=0)
    head = target.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:])
    assert width == WIDTH
    assert height > WIDTH / 2

    shown["panels"][1]["type"] = "crystal-ball"
    with pytest.raises(DrawingError):
        picture(shown, tmp_path, target)


def test_a_repeated_row_is_there_for_each_instance(prometheus: Prometheus, busy: list[str]) -> None:
    """A row that repeats is there below itself for each instance, with the data of that one."""
    shown = page(prometheus, "pool", View({"pool": "image_resize"}, seconds=60), time.time())["panels"]
    titles = [panel["title"] for panel in shown if panel["id"] == 20]
    assert titles == [f"Instance {one}" for one in sorted(busy)]
    queues = [panel for panel in shown if panel["id"] == 21]
    assert [len(panel["answers"]) for panel in queues] == [2, 2]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in shown]
    assert len(set(places)) == len(places)
