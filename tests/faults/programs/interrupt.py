"""Interrupt the main thread once, at each point in turn, and judge the pool after each.

By hand: ``python -m tests.faults.programs.interrupt submit_parked:executor [--only 7 | --points 20]``.
A name is a scenario, a group (see ``scenarios.py``) or ``all``. Without ``--points`` every
point is tried, else that many, evenly spread from one that the seed chooses. One JSON line is printed for
each point that breaks a pool, and one for each scenario.
"""

from __future__ import annotations

from tests.faults.campaign import main
from tests.faults.points import Injector
from tests.faults.scenarios import GROUPS, SCENARIOS

if __name__ == "__main__":
    main(__doc__, Injector, SCENARIOS, GROUPS)
