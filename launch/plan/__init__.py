"""The plan of a run: its work, its needs, and whether it can run, checked before it starts or queues for hours.

`preflight` refuses everything that the run itself would refuse; every command that begins or resumes a run calls it.
`checks` reports the same checks one by one and writes a trial checkpoint; `show` prints the plan.
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
