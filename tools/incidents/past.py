"""Hours of calm for a Prometheus that was started just now.

Error budgets look back an hour and more: in a service without a past, one bad minute is most of it, and its
alerts would be minutes early. A slowdown is measured by yesterday. So what each service was seen to do in its
first calm moments is written into the data before it, at the same rates, up to its start.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import groupby
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.observe.child import get

_CUMULATIVE = ("_total", "_bucket", "_sum", "_count")
# A service starts its workers once: that some came up in its first calm moments is no rate.
_ONCE = "workerpool_workers_started_total"


@dataclass(frozen=True, slots=True)
class Calm:
    """What one service exported at two calm moments, ``seconds`` apart, and since when it had run.

    ``began`` is a unix time in seconds.
    """

    job: str
    address: str
    began: float
    seconds: float
    first: Mapping[str, Sample]
    last: Mapping[str, Sample]


def scrape(address: str) -> dict[str, Sample]:
    """Return the samples of pools that an address exports, by name and labels."""
    status, body = get(int(address.rpartition(":")[2]), "/metrics")
    if status != HTTPStatus.OK:
        raise RuntimeError(f"{address} answers {status}")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.startswith("workerpool_")
    }


def write(calms: list[Calm], scale: float, hours: int, step: float, folder: Path) -> None:
    """Write ``hours`` of calm, times ``scale``, into the data in ``folder``.

    The newest of them has a sample every ``step`` seconds. Of the others only the longer windows are read,
    for which a tenth of the samples will do, and none of the buckets.
    """
    hour = 3600 * scale
    newest, older = _every(step, hour, 0.0), _every(10 * step, hours * hour, hour)
    text = folder / "calm.om"
    with text.open("w", encoding="utf-8") as file:
        file.writelines(_lines(calms, newest, older))
        file.write("# EOF\n")
    promtool = shutil.which("promtool")
    if promtool is None:
        raise RuntimeError("promtool is missing: run apt-get install prometheus")
    blocks = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data")]
    subprocess.run(blocks, check=True, capture_output=True, text=True, timeout=600)


def _every(step: float, longest: float, shortest: float) -> list[float]:
    """Return how many seconds ago the samples are, the oldest first."""
    return [longest - number * step for number in range(int((longest - shortest) / step))]


def _lines(calms: list[Calm], newest: list[float], older: list[float]) -> Iterator[str]:
    samples = [(calm, key) for calm in calms for key in calm.last]
    # A family has to be in one piece.
    samples.sort(key=lambda one: one[0].last[one[1]].name)
    for _, family in groupby(samples, key=lambda one: one[0].last[one[1]].name):
        for calm, key in family:
            bucket = calm.last[key].name.endswith("_bucket")
            yield from _series(calm, key, newest if bucket else older + newest)


def _series(calm: Calm, key: str, times: Sequence[float]) -> Iterator[str]:
    sample = calm.last[key]
    labels = {"job": calm.job, "instance": calm.address, **sample.labels}
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    cumulative = sample.name.endswith(_CUMULATIVE) and sample.name != _ONCE
    rate = (sample.value - calm.first[key].value) / calm.seconds if cumulative else 0.0
    for ago in times:
        value = rate * (times[0] - ago) if cumulative else sample.value
        yield f"{sample.name}{{{shown}}} {value:.9g} {calm.began - ago:.3f}\n"
