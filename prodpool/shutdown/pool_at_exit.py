"""One pool as the end of the process sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from prodpool.config.settings import PoolSettings
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.shutdown.closing import Closing
from prodpool.shutdown.stopper import Stopper


class PoolAtExit:
    """What the exit registry calls of one pool.

    Args:
        settings: The pool's arguments.
        dispatcher: What holds its tasks.
        closing: Is told that the process exits.
        stopper: Stops it.
        start_loops: Starts so many workers.
        shut_down_backend: Shuts the backend down without waiting, if the pool owns it.
        holds_up_exit: Whether CPython joins the threads of its backend at exit.
        is_used: Tells whether it was used.
    """

    def __init__(
        self,
        settings: PoolSettings,
        dispatcher: Dispatcher,
        closing: Closing,
        stopper: Stopper,
        *,
        start_loops: Callable[[int], None],
        shut_down_backend: Callable[[], None],
        holds_up_exit: bool,
        is_used: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._closing = closing
        self._stopper = stopper
        self._start_loops = start_loops
        self._shut_down_backend = shut_down_backend
        self._holds_up_exit = holds_up_exit
        # A pool that was not used has nothing to stop, and no thread to say so.
        self._is_used = is_used

    def close(self) -> None:
        """Begin to drain."""
        self._closing.exiting = True
        self._start_loops(self._dispatcher.start_draining())

    def drain_deadline(self) -> float:
        """Return the seconds that the pool may take to drain."""
        return self._settings.drain_deadline if self._is_used() else 0.0

    def stop_at_exit(self, began: float, *, at_once: bool) -> None:
        """Stop within the drain deadline, counted from ``began``, in this thread; or break off at once."""
        if self._is_used():
            self._stopper.stop_here(0.0 if at_once else self._settings.drain_deadline, began)
        else:
            # It may have threads all the same, which CPython would join.
            with suppress(Exception):
                self._shut_down_backend()

    def hung_threads(self) -> list[int]:
        """Return the idents of the threads of a stopped pool that do not end."""
        workers = list(self._dispatcher.worker_set.workers)
        return [worker.ident for worker in workers if worker.ident is not None]

    def holds_up_exit(self) -> bool:
        """Tell whether those threads would be joined at exit, and should not be."""
        return self._holds_up_exit and self._settings.on_hang_exit == "exit"
