"""Take samples of several sides in turn, so that the machine's drift meets all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sample:
    """One measurement, in seconds for all of its tasks until `per` divides it.

    Attributes:
        cpu: Processor seconds of the process, all threads.
        wall: Elapsed seconds.
    """

    cpu: float = 0.0
    wall: float = 0.0

    def per(self, tasks: int) -> Sample:
        """Return the same in microseconds per task."""
        return Sample(self.cpu / tasks * 1e6, self.wall / tasks * 1e6)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of a set of numbers."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Summarise at least one number."""
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(slots=True)
class Series:
    """The samples of one side, one a round."""

    samples: list[Sample] = field(default_factory=list)

    def column(self, measure: str) -> list[float]:
        """Return one measure, ``cpu`` or ``wall``, of every round."""
        return [getattr(sample, measure) for sample in self.samples]

    def ratio(self, base: Series, measure: str) -> Spread:
        """Summarise the ratios to ``base``, each taken within one round."""
        pairs = zip(self.column(measure), base.column(measure), strict=True)
        return Spread.of([mine / other for mine, other in pairs])

    def difference(self, base: Series, measure: str) -> Spread:
        """Summarise the differences to ``base``, each taken within one round."""
        pairs = zip(self.column(measure), base.column(measure), strict=True)
        return Spread.of([mine - other for mine, other in pairs])


@contextmanager
def measured() -> Iterator[Sample]:
    """Measure a block into the yielded sample. Garbage of earlier blocks is collected before it."""
    gc.collect()
    sample = Sample()
    cpu, wall = time.process_time(), time.perf_counter()
    yield sample
    sample.wall, sample.cpu = time.perf_counter() - wall, time.process_time() - cpu


def interleave(sides: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, Series]:
    """Sample every side once a round; who begins changes from round to round."""
    series = {key: Series() for key in sides}
    order = list(sides)
    for _ in range(rounds):
        for key in order:
            series[key].samples.append(sides[key]())
        order.append(order.pop(0))
    return series
