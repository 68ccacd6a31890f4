"""Checks whether a run can begin or resume with given settings: everything that it would refuse or warn of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data_pipelines.dataset import Dataset
from launch.clusters import Cluster
from launch.plan.check import Check
from launch.plan.memory import Place, check_memory
from launch.plan.sense import check_best_metric, check_resolutions
from launch.plan.submission import check_idle, cluster_checks
from launch.plan.trial import check_space, try_checkpoint
from sivae_dist.checkpoint.initial import check_initial
from sivae_dist.config.opening import resolve_settings
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.evaluation.extractors import EXTRACTORS
from sivae_dist.evaluation.metrics import METRICS, Features
from sivae_dist.process import startup
from sivae_dist.process.devices import check_processes
from sivae_dist.published import WeightsError
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.progress import saved_images
from sivae_dist.step.schedule import Schedule
from sivae_dist.train.memory import meta_networks
from sivae_dist.train.trainer import check_data, make_schedule, needs_of


@dataclass
class Plan:
    """A run that can begin or resume."""

    settings: RunSettings
    """Those asked for, with what follows from the data set."""
    processes: int
    place: Place
    data: Dataset
    """Closed; only its description can be used."""
    schedule: Schedule
    notes: list[str] = field(default_factory=list)
    """Differences from the settings that the run was started with."""
    warnings: list[str] = field(default_factory=list)


def preflight(
    settings: RunSettings,
    processes: int,
    run: RunDirectory | None = None,
    *,
    here: bool = False,
    cluster: Cluster[Any] | None = None,
    thorough: bool = False,
    untrained: Sequence[str] = (),
) -> Plan:
    """The plan of a run with these settings on `processes` processes. ValueError for the first reason against it.

    `run`: its directory, in which it may have begun; None if undecided. `here`: whether it runs on this machine, whose
    devices and memory are then checked. `cluster`: the cluster to submit it to, which determines `here` and must not
    have a job of the run already. `thorough`: also check what the run's own start would find, for a dry run.
    `untrained`: keys for resolutions that are not trained (untrained_keys).
    """
    if cluster is not None and run is not None:
        check_idle(cluster, run.path)
    examination = _Examination(settings, processes, run, cluster.here if cluster else here, untrained)
    for look in examination.looks(thorough=thorough).values():
        look()
    return examination.plan


def checks(
    settings: RunSettings,
    processes: int,
    run: RunDirectory,
    *,
    cluster: Cluster[Any] | None = None,
    untrained: Sequence[str] = (),
) -> Iterator[Check]:
    """The same checks for a job, one by one, then a trial checkpoint; ends with the first failure."""
    if cluster is not None:
        yield from cluster_checks(cluster)
    here = cluster is not None and cluster.here
    examination = _Examination(settings, processes, run, here, untrained)
    looks = {"config": lambda: "all settings are valid"} | examination.looks(thorough=True)
    for name, look in (looks | {"checkpoint": examination.checkpoint}).items():
        try:
            found = look()
        except (ValueError, OSError) as error:
            yield Check(name, False, str(error))
            return
        if found is not None:
            yield Check(name, True, found)
    for warning in examination.plan.warnings:
        yield Check("warning", True, warning)


class _Examination:
    """Each check raises ValueError or returns its result; None when there is nothing to report."""

    def __init__(
        self, settings: RunSettings, processes: int, run: RunDirectory | None, here: bool, untrained: Sequence[str]
    ) -> None:
        self.settings = settings
        self.processes = processes
        self.run = run
        self.here = here
        self.untrained = untrained
        self.begun = run is not None and run.config.is_file()
        self.plan: Plan

    def looks(self, *, thorough: bool) -> dict[str, Callable[[], str | None]]:
        """The checks by name, in the order of their dependencies."""
        looks = {
            "devices": self.devices,
            "data": self.data,
            "batches": self.batches,
            "schedule": self.sense,
            "run": self.history,
            "weights": self.initial,
            "objective": self.objective,
            "evaluation": self.evaluation,
        }
        return looks | ({"memory": self.memory, "disk space": self.space} if thorough else {})

    def devices(self) -> str | None:
        if not self.here:
            return None
        startup.doing("looking for GPUs")
        check_processes(self.settings.device, self.processes)
        return f"one for each of {self.processes} process(es)"

    def data(self) -> str:
        settings = self.settings
        startup.doing(f"opening {settings.data.where}")
        with settings.data.open(settings.seed, torch.device("cpu")) as data:
            settings = self.settings = settings.fitted(data)
            check_data(settings, data)
            warnings = data.warnings(needs_of(settings.model))
        schedule = make_schedule(settings, data.train)
        self.plan = Plan(settings, self.processes, Place.of(settings, here=self.here), data, schedule)
        self.plan.warnings += warnings
        return f"{data.where}: {data.train:,} training and {data.test:,} test samples"

    def batches(self) -> str:
        self.plan.schedule.check_world_size(self.processes)
        return f"every batch divides among {self.processes} processes"

    def sense(self) -> str | None:
        """Only for a new run; one that has begun keeps its settings."""
        if self.begun:
            return None
        check_resolutions(self.settings, self.untrained)
        check_best_metric(self.settings, self.plan.data)
        if warning := self.settings.objective.check_length(self.plan.schedule.total):
            self.plan.warnings.append(warning)
        return f"{self.plan.schedule.end:,} images"

    def history(self) -> str | None:
        if self.run is None or not self.begun:
            return None
        _, self.plan.notes = resolve_settings(self.run, self.settings, self.plan.data.train)
        return f"{self.run.path} is at {saved_images(self.run.path):,} images"

    def initial(self) -> str | None:
        if self.run is not None and saved_images(self.run.path):
            return None  # its own checkpoint comes first
        encoder, decoder = meta_networks(self.settings)
        return check_initial(self.settings.init, {"encoder": encoder, "decoder": decoder})

    def objective(self) -> str | None:
        """Gets the files of the objective, where the run is to be."""
        if not self.here:
            return None  # the job's machine may have them
        startup.doing("looking for the files of the objective")
        found = self.settings.objective.prepare()
        return None if found is None else f"files with checksum {found[:16]}"

    def evaluation(self) -> str | None:
        """Looks for weights of the metrics, without which a run would fail at its start or only print a warning."""
        measured = self.settings.evaluation
        if not measured.every:
            return None
        startup.doing("looking for the weights of the evaluation")
        found = None
        chosen = measured.chosen(self.plan.data)
        of_features = [name for name in chosen if Features in METRICS[name].needs]
        if of_features and (self.here or measured.weights is not None):  # a job's machine may have others
            try:
                found = EXTRACTORS[measured.extractor](measured).weights()
            except WeightsError as error:
                if measured.weights is not None:
                    raise
                self._left_out(of_features, error)
        for name in chosen if self.here else ():
            try:
                METRICS[name]().prepare(torch.device("cpu"))
            except WeightsError as error:
                self._left_out([name], error)
        return None if found is None else f"weights {found}"

    def _left_out(self, metrics: Sequence[str], error: WeightsError) -> None:
        """Warns of metrics that cannot be measured. ValueError where the best checkpoint is chosen by one."""
        best = self.settings.checkpoint
        if best.keep_best and best.best_metric in [f"evaluation/{name}" for name in metrics] and not self.begun:
            raise ValueError(
                f"checkpoint.best_metric={best.best_metric} is never measured: {error}; or set checkpoint.keep_best=0"
            ) from None
        self.plan.warnings.append(f"{error}; until then only the other metrics are measured")

    def memory(self) -> str:
        found, warning = check_memory(self.settings, self.plan.schedule, self.processes, self.plan.place)
        self.plan.warnings += [warning] if warning else []
        return found

    def space(self) -> str:
        return check_space(self.settings, self.plan.schedule, self._path())

    def checkpoint(self) -> str:
        size = try_checkpoint(self.settings, self._path())
        return f"a trial of {size / 1e9:.2f} GB was written, read back and removed"

    def _path(self) -> Path:
        assert self.run is not None
        return self.run.path
