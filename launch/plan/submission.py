"""Whether a job can be handed in: the place that is asked, what is asked of it, and jobs that are there already."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from launch.clusters import Cluster, Resources, State
from launch.jobs import states_of
from launch.plan.check import Check
from sivae_dist.config.run_settings import RunSettings


def on_device(settings: RunSettings, asked: Resources) -> RunSettings:
    """Settings with the device that the resources stand for, where they leave it open (`auto`): a job with GPUs never
    trains on CPUs unnoticed. ValueError where they contradict each other."""
    if settings.device.startswith("cuda") and not asked.gpus:
        raise ValueError(f"device={settings.device} needs GPUs, and none are asked for: set --gpus-per-node")
    if asked.leaves_device_open:
        return settings
    if settings.device == "auto":
        settings = settings.model_copy(update={"device": "cuda" if asked.gpus else "cpu"})
    if settings.device.startswith("cuda") and asked.processes_per_node > asked.gpus:
        raise ValueError(
            f"{asked.processes_per_node} processes per node need a GPU each, and {asked.gpus} are asked for: leave "
            "--tasks-per-node out, or set device=cpu"
        )
    return settings


def states_before(cluster: Cluster[Any], runs: Sequence[Path]) -> list[State]:
    """Of runs that are to be handed in. ValueError where that is not possible from here, or when it is not known
    whether they have jobs already."""
    cluster.check()
    return states_of(runs, certain=True)


def check_idle(cluster: Cluster[Any], run: Path) -> None:
    """ValueError as of states_before, and when the run has a job already."""
    (state,) = states_before(cluster, [run])
    if state.is_alive:
        raise ValueError(f"{run} has a job already, {state}: cancel it first")


def cluster_checks(cluster: Cluster[Any]) -> Iterator[Check]:
    """For a dry run, which may take place anywhere: a check that fails where no job can be handed in."""
    try:
        cluster.check()
    except ValueError as error:
        yield Check(cluster.kind, False, str(error))
