"""Write the dashboards: ``python -m dashboards.build [FOLDER]``, by default the folder of this file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():
    # The SDK would rather have the format that only the newest Grafana reads.
    warnings.filterwarnings("ignore", "Prefer using dashboardv2", DeprecationWarning)
    from dashboards import capacity, one_pool, overview
    from dashboards.frame import to_json

BOARDS = (overview.BOARD, one_pool.BOARD, capacity.BOARD)


def main(folder: Path) -> None:
    """Write every dashboard into ``folder``."""
    for board in BOARDS:
        (folder / f"{board.file}.json").write_text(to_json(board))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
