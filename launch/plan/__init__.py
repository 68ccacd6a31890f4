"""What a run will do and need, and whether it can, found out before it starts or queues for hours.

`preflight` refuses whatever the run itself would refuse; every command that begins or continues a run passes through
it. `checks` goes through the same one by one, for a report, and tries a checkpoint; `show` prints the plan.
"""

from launch.plan.check import Check
from launch.plan.preflight import Plan, checks, preflight
from launch.plan.sense import untrained_keys
from launch.plan.submission import cluster_checks, on_device, states_before
from launch.plan.table import show

__all__ = [
    "Check",
    "Plan",
    "checks",
    "cluster_checks",
    "on_device",
    "preflight",
    "show",
    "states_before",
    "untrained_keys",
]
