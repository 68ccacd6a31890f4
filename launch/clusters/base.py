"""The contract of a cluster, on which jobs run.

To add one, such as PBS or Kubernetes, write a module with two classes and add it to the list:

    class PbsResources(Resources): ...             the resources of a job: keys of configs/clusters/NAME.yaml

    @CLUSTERS.add("pbs")                           from launch.clusters; inside this package, a line of the list
    class Pbs(Cluster[PbsResources]): ...

`--cluster pbs` then selects it, as does a file of configs/clusters with `kind: pbs`. jobs.jsonl records the name as
`kind`, by which `sivae status`, `logs` and `cancel` find it again.

Jobs behave alike on all clusters, and leave the same record (launch/record.py). For every start, a job

1. starts one process per rank on all nodes: `python -m launch.worker RUN` in an environment with RANK, LOCAL_RANK,
   WORLD_SIZE, MASTER_ADDR and MASTER_PORT; on a single node, `python -m launch.launcher RUN PROCESSES` does this
   (`snapshot` and `importing` of launch/code.py determine the code);
2. records `JobRecord.started` before, and `JobRecord.ended` with the exit code if they end by themselves;
3. ends all processes once one has failed, and sends them USR1, USR2 or TERM to make them save and stop;
4. asks `launch.verdict.judge` whether to start the run again, under the same job name and with the next restart number,
   and writes the verdict into the run's log (`Logs.append`).

slurm/ does this in the batch script, task.py and requeue.py; local/ in supervisor.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from launch.record import JobRecord
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import Row
from sivae_dist.settings import Settings

PARALLEL = 8
"""Default number of concurrent runs of a sweep."""


class Resources(Settings, ABC):
    """The resources of a job. Command-line options override those of a file."""

    @property
    @abstractmethod
    def gpus(self) -> int:
        """GPUs per node; 0 trains on CPUs."""

    @property
    @abstractmethod
    def processes_per_node(self) -> int: ...

    @property
    @abstractmethod
    def processes(self) -> int:
        """Processes of the job on all its nodes."""

    @property
    def leaves_device_open(self) -> bool:
        """Whether `gpus` is only a default, so that the machine resolves `device=auto`."""
        return False


Asked = TypeVar("Asked", bound=Resources)


class Prepared(NamedTuple):
    """A run directory that is ready to be trained."""

    path: Path
    images: int
    """Number of images that the whole run will see."""


@dataclass(frozen=True)
class Job:
    """A job of a run, as submitted."""

    run: Path
    row: Row
    """Its line of jobs.jsonl."""

    @property
    def name(self) -> str:
        return str(self.row["job"])

    @property
    def kind(self) -> str:
        """The cluster's name in the list."""
        return str(self.row["kind"])

    @property
    def is_shared(self) -> bool:
        """Whether it trains other runs as well."""
        return int(self.row.get("runs", 1)) > 1

    @property
    def record(self) -> JobRecord:
        return JobRecord(self.run)


_EXPLAINED = ("failed", "unknown")
"""States whose detail is a separate sentence."""


@dataclass(frozen=True)
class State:
    """State of a run with respect to its jobs."""

    name: str
    """`pending`: in the scheduler's queue; `waiting`: for other runs of the same job; `running`; `finished`; `stopped`:
    saved on request, or not begun; `cancelled`: the same by `sivae cancel`; `failed`; `killed`: gone without a
    recorded end; `unknown`: the scheduler does not answer; `not submitted`: there is no job."""
    detail: str = ""

    def __str__(self) -> str:
        """As shown in tables and messages."""
        if not self.detail:
            return self.name
        return f"{self.name}{': ' if self.name in _EXPLAINED else ' '}{self.detail}"

    @property
    def is_alive(self) -> bool:
        """Whether it may be queued or running; also true if that is unknown."""
        return self.name in ("pending", "waiting", "running", "unknown")


class Cluster(ABC, Generic[Asked]):
    """Submits, queries and cancels jobs. It has no state, so every command may create its own."""

    here: ClassVar[bool] = False
    """Whether jobs run on this machine, whose devices and memory are then checked before submission."""
    has_tasks: ClassVar[bool] = True
    """Whether one task of a sweep can train several runs in turn (`sweep`'s `per_task`)."""
    patience: ClassVar[float] = 30.0
    """Seconds between two queries of states; a scheduler is shared."""

    def __init__(self, kind: str) -> None:
        """`kind`: its name in the list."""
        self.kind = kind

    @abstractmethod
    def resources(self, name: str, given: Mapping[str, Any]) -> Asked:
        """The resources requested by `--cluster NAME` and the options `given` (launch/cli/resources.py).

        `name`: this kind's name, a file's (launch/clusters/files.py), or `auto`. ValueError with one line per problem.
        """

    @abstractmethod
    def check(self) -> None:
        """ValueError if this machine cannot submit jobs."""

    def script(self, run: Path, name: str, asked: Asked) -> str | None:
        """The script that `submit` would submit, for a dry run on any machine; None if the cluster has no scripts."""
        return None

    @abstractmethod
    def submit(self, run: Prepared, name: str, asked: Asked) -> str:
        """Submits a run and records it (`_record`). `name`: shown to users. Returns the job's name.

        ValueError when the job is refused.
        """

    @abstractmethod
    def sweep(
        self, folder: Path, runs: Sequence[Prepared], name: str, asked: Asked, parallel: int | None, per_task: int
    ) -> list[str]:
        """Submits the runs of a sweep's folder: `per_task` runs in turn per task, and at most `parallel` tasks at once
        (the cluster chooses if None). Returns the names of the jobs."""

    @abstractmethod
    def states(self, jobs: Sequence[Job]) -> list[State | None]:
        """States of jobs whose runs have not finished: pending, waiting or running, or None for a job that is gone,
        whose end launch/jobs.py reads from its record. `unknown` when the cluster does not answer. Changes nothing,
        and makes a single query."""

    def check_cancel(self, jobs: Sequence[Job]) -> None:  # most clusters can cancel from any machine
        """ValueError when one of these jobs cannot be cancelled from this machine."""

    @abstractmethod
    def cancel(self, jobs: Sequence[tuple[Job, State]]) -> list[str]:
        """Makes running jobs save and stop, and removes queued ones; returns a line about each.

        All are already marked (JobRecord.cancel), so that none is started again. ValueError on failure.
        """

    def log(self, job: Job, rank: int) -> Path | None:
        """The log of process `rank` of a job; None when there is none."""
        return newest(RunDirectory(job.run).process_logs(job.name, rank))

    def _record(self, run: Prepared, job: str, **facts: Any) -> None:
        """Records a submission, with the cluster's own facts: `runs` of the same job, processes, code."""
        JobRecord(run.path).submitted(job=job, kind=self.kind, images=run.images, **facts)


def newest(logs: Sequence[Path]) -> Path | None:
    """The log written last, preferring logs that are not empty."""
    return max(logs, key=lambda path: (path.stat().st_size > 0, path.stat().st_mtime), default=None)
