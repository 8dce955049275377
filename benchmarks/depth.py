"""Cost per task while few and while very many wait, each depth in a process of its own.

The queue holds batches of no-op tasks, each followed by gates that block all workers again. One sample
lets the workers run one batch from the head and submits another at the tail, so the depth stays.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial

from benchmarks.contenders import BARE, CONTENDERS, POOL
from benchmarks.report import Row
from benchmarks.sampling import Sample, interleave, measured
from benchmarks.scale import Scale
from benchmarks.speed import WORKERS, noop

_BATCH = 500


def many_waiting(scale: Scale) -> list[Row]:
    """Compare the cost per task at two depths of the queue, each side with itself."""
    rows = []
    for key in (BARE, POOL):
        with ExitStack() as stack:
            sides = {
                depth: partial(_ask, stack.enter_context(_child(key, depth)))
                for depth in (scale.shallow, scale.deep)
            }
            series = interleave({str(depth): side for depth, side in sides.items()}, scale.rounds)
        shallow, deep = series.values()
        title = f"{scale.deep:,} waiting to {scale.shallow:,}"
        rows += [
            Row.of_series(title, CONTENDERS[key].title, label, deep, measure, base=shallow)
            for measure, label in (("cpu", "CPU"), ("wall", "wall"))
        ]
    return rows


def _child(key: str, depth: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.depth", key, str(depth)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _ask(child: subprocess.Popen[str]) -> Sample:
    assert child.stdin is not None  # noqa: S101  # for the type checker: both are pipes
    assert child.stdout is not None  # noqa: S101
    print(file=child.stdin, flush=True)
    return Sample(*json.loads(child.stdout.readline()))


class Gates:
    """An executor whose queue is kept at a depth by gates between the batches."""

    def __init__(self, executor: Executor, depth: int) -> None:
        self._executor = executor
        self._batch = max(1, min(_BATCH, depth // 2))
        self._arrived = threading.Semaphore(0)
        self._opened = threading.Semaphore(0)
        self._over = False
        self._submit_gates()
        self._await_gates()
        for _ in range(max(2, depth // self._batch)):
            self._submit_batch()

    def sample(self) -> Sample:
        """Run a batch from the head and submit another at the tail."""
        with measured() as sample:
            self._opened.release(WORKERS)
            self._await_gates()
            self._submit_batch()
        return sample.per(self._batch)

    def close(self) -> None:
        """Drop what waits and let the workers go."""
        self._over = True
        # Twice: a worker may have looked at the flag just before.
        self._opened.release(2 * WORKERS)
        self._executor.shutdown(cancel_futures=True)

    def _submit_batch(self) -> None:
        for _ in range(self._batch):
            self._executor.submit(noop)
        self._submit_gates()

    def _submit_gates(self) -> None:
        for _ in range(WORKERS):
            self._executor.submit(self._gate)

    def _gate(self) -> None:
        self._arrived.release()
        if not self._over:
            self._opened.acquire()

    def _await_gates(self) -> None:
        for _ in range(WORKERS):
            self._arrived.acquire()


def _serve(key: str, depth: int) -> None:
    gates = Gates(CONTENDERS[key].build(WORKERS, 2 * depth + 4 * _BATCH), depth)
    gates.sample()
    for _ in sys.stdin:
        sample = gates.sample()
        print(json.dumps([sample.cpu, sample.wall]), flush=True)
    gates.close()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
