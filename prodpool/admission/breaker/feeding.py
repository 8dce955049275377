"""Reporting the outcome of a task to pybreaker, which hears of outcomes only by making calls itself."""

from __future__ import annotations

import contextlib
import threading

from pybreaker import CircuitBreaker, CircuitBreakerError

__all__ = ["OutcomeError", "feed", "feed_from_thread", "is_judged"]

_judged = threading.local()  # .exception: the one this thread feeds right now, found not to be excluded


class OutcomeError(BaseException):
    """Stands for a task's exception, which is not raised a second time.

    Another thread has that one by now: it may raise it at this moment, and would find our frames in its
    traceback. This is no ``Exception``, so that no exclusion but ``BaseException`` applies to it.
    """

    def __init__(self, original: BaseException) -> None:
        """Stand for ``original``."""
        super().__init__(original)
        self.original = original


def is_judged(exception: BaseException) -> bool:
    """Tell whether ``exception`` is being fed by this thread, and was found not to be excluded."""
    return getattr(_judged, "exception", None) is exception


def _succeed() -> None:
    pass


def _fail(exception: BaseException) -> None:
    raise exception


def feed(breaker: CircuitBreaker, exception: BaseException | None) -> None:
    """Report one outcome to ``breaker`` as if it had made the call, and leave ``exception`` unchanged.

    Raises:
        BaseException: what a storage raised; what a listener or predicate raises stays with its guard.
    """
    if exception is None:
        with contextlib.suppress(CircuitBreakerError):
            breaker.call(_succeed)
        return
    trace, context = exception.__traceback__, exception.__context__
    _judged.exception = exception
    try:
        breaker.call(_fail, exception)
    except CircuitBreakerError:
        pass
    except BaseException as error:
        if error is not exception:
            raise
    finally:
        _judged.exception = None
        # Not by assignment: an exception may be a frozen dataclass.
        BaseException.__setattr__(exception, "__traceback__", trace)
        BaseException.__setattr__(exception, "__context__", context)


def feed_from_thread(breaker: CircuitBreaker, exception: BaseException | None) -> None:
    """Do the same once the task's future has its result; guarded listeners hear of ``exception`` itself."""
    feed(breaker, None if exception is None else OutcomeError(exception))
