"""Checks whether a job can be submitted: the cluster, the resources, and existing jobs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.clusters import Cluster, Resources, State
from launch.jobs import states_of
from launch.plan.check import Check
from sivae_dist.config.run_settings import RunSettings


def on_device(settings: RunSettings, asked: Resources) -> RunSettings:
    """Settings with `device=auto` replaced by the device that the resources imply, so that a job with GPUs never trains
    on CPUs unnoticed. ValueError when device and resources contradict each other."""
    if settings.device.startswith("cuda") and not asked.gpus:
        raise ValueError(f"device={settings.device} needs GPUs, but none are requested: set --gpus-per-node")
    if asked.leaves_device_open:
        return settings
    if settings.device == "auto":
        settings = settings.model_copy(update={"device": "cuda" if asked.gpus else "cpu"})
    if settings.device.startswith("cuda") and asked.processes_per_node > asked.gpus:
        raise ValueError(
            f"{asked.processes_per_node} processes per node need one GPU each, but {asked.gpus} are requested: omit "
            "--tasks-per-node, or set device=cpu"
        )
    return settings


def states_before(cluster: Cluster[Any], runs: Sequence[Path]) -> list[State]:
    """States of runs before they are submitted. ValueError if this machine cannot submit, or if it is unknown whether
    they have jobs already."""
    cluster.check()
    return states_of(runs, certain=True)


def check_idle(cluster: Cluster[Any], run: Path) -> None:
    """ValueError as in states_before, and when the run has a job already."""
    (state,) = states_before(cluster, [run])
    if state.is_alive:
        raise ValueError(f"{run} has a job already, {state}: cancel it first")


def cluster_checks(cluster: Cluster[Any]) -> Iterator[Check]:
    """For a dry run, which works anywhere: a failed check if this machine cannot submit jobs."""
    try:
        cluster.check()
    except ValueError as error:
        yield Check(cluster.kind, False, str(error))
