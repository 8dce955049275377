"""The warning of a pool that an unbounded ``grpc.server`` has filled."""

from __future__ import annotations

from types import FunctionType, MethodType

from prodpool.task.task import Task, called_function
from prodpool.telemetry.log_events import PoolLog

# One thread serves all connections and submits their RPCs. It ends with an error that `submit` raises, and
# while it waits in there, or runs a handler, no RPC that runs gets a message any more.
_USE_INSTEAD = (
    "the serving thread of grpc.server ends or hangs if its pool is full: use "
    "prodpool.integrations.grpc.server(pool) or grpc.server(pool, maximum_concurrent_rpcs=pool.capacity)"
)


class GrpcOverload:
    """Notices RPCs for which a pool has no slot, and logs the first."""

    def __init__(self, log: PoolLog) -> None:
        self._log = log
        self._logged = False

    def detail_of(self, task: Task, overload: str) -> str | None:
        """Return the detail for the submitter's error; None if ``task`` is no RPC."""
        if not _is_rpc(task):
            return None
        if not self._logged:
            self._logged = True
            self._log.error("pool.grpc_unbounded", overload=overload, instead=_USE_INSTEAD)
        return _USE_INSTEAD


def _is_rpc(task: Task) -> bool:
    """Tell whether ``grpc.server`` has submitted this: a function of its own, or ``Context.run`` with one."""
    fn = called_function(task.fn, task.args)
    # Of nothing else: an object of the application's may do anything when it is asked for an attribute.
    return type(fn) in {FunctionType, MethodType} and fn.__module__ == "grpc._server"
