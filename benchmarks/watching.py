"""What the watchdog costs while many tasks run and nothing else happens."""

from __future__ import annotations

import threading
import time
from functools import partial

from benchmarks.contenders import BARE, CONTENDERS, POOL
from benchmarks.report import Row
from benchmarks.sampling import Sample, Spread, interleave, measured
from benchmarks.scale import Scale


def watchdog(scale: Scale) -> list[Row]:
    """Compare the processor time of many blocked tasks, watched and not, in percent of one core."""
    sides = {key: partial(_observe, key, scale) for key in (BARE, POOL)}
    series = interleave(sides, scale.processes)
    shares = {key: [100 * sample.cpu / sample.wall for sample in one.samples] for key, one in series.items()}
    over = [mine - other for mine, other in zip(shares[POOL], shares[BARE], strict=True)]
    experiment = f"{scale.many_workers} tasks running"
    return [
        Row(experiment, CONTENDERS[key].title, "CPU", Spread.of(shares[key]), "% of a core") for key in shares
    ] + [Row(experiment, "the watchdog", "CPU", Spread.of(over), "% of a core", target=1.0)]


def _observe(key: str, scale: Scale) -> Sample:
    opened = threading.Event()
    arrived = threading.Barrier(scale.many_workers + 1)
    with CONTENDERS[key].build(scale.many_workers, scale.many_workers) as executor:
        for _ in range(scale.many_workers):
            executor.submit(lambda: (arrived.wait(), opened.wait()))
        arrived.wait()
        # Woken threads still run on for a moment.
        time.sleep(scale.watch_seconds / 10)
        with measured() as sample:
            time.sleep(scale.watch_seconds)
        opened.set()
    return sample
