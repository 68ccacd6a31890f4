"""The contract of a cluster: what commands ask of the place where jobs run, whichever it is.

To add one, PBS or Kubernetes say, write a module with two classes and add it to the list:

    class PbsResources(Resources): ...             what one job asks for: keys of configs/clusters/NAME.yaml

    @CLUSTERS.add("pbs")                           from launch.clusters; inside this package, a line of the list
    class Pbs(Cluster[PbsResources]): ...

`--cluster pbs` then chooses it, as does a file of configs/clusters with `kind: pbs`; jobs.jsonl has the name as `kind`,
by which `sivae status`, `logs` and `cancel` find it again.

What a job does is the same everywhere, and so is what it leaves behind (launch/record.py). For every start it

1. starts one process for each rank, on all nodes: `python -m launch.worker RUN` in an environment with RANK,
   LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; on one node `python -m launch.launcher RUN PROCESSES` does it
   (`snapshot` and `importing` of launch/code.py say from where it is imported);
2. records `JobRecord.started` before, and `JobRecord.ended` with the exit code when they end by themselves;
3. ends all processes once one has failed, and sends them USR1, USR2 or TERM when they have to go: they save and end;
4. asks `launch.verdict.judge` whether the run is started again, under the same name of the job and with the next number
   of the restart, and says in the run's log what was decided (`Logs.tell`).

slurm/ has these in the batch script, task.py and requeue.py; local/ in supervisor.py.
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
"""Runs of a sweep at once where nothing else is said."""


class Resources(Settings, ABC):
    """What a job asks for. Options of the command come before a file's."""

    @property
    @abstractmethod
    def gpus(self) -> int:
        """Of a node; 0 trains on CPUs."""

    @property
    @abstractmethod
    def processes_per_node(self) -> int: ...

    @property
    @abstractmethod
    def processes(self) -> int:
        """Of the job, on all its nodes."""

    @property
    def leaves_device_open(self) -> bool:
        """Whether `gpus` is no more than a guess, so that the machine decides what `device=auto` is."""
        return False


Asked = TypeVar("Asked", bound=Resources)


class Prepared(NamedTuple):
    """A run directory that is ready to be trained."""

    path: Path
    images: int
    """That the run sees until its end."""


@dataclass(frozen=True)
class Job:
    """The job that a run was submitted as."""

    run: Path
    row: Row
    """Its line of jobs.jsonl."""

    @property
    def name(self) -> str:
        return str(self.row["job"])

    @property
    def kind(self) -> str:
        """Of cluster, by its name in the list."""
        return str(self.row["kind"])

    @property
    def is_shared(self) -> bool:
        """Whether it trains other runs too."""
        return int(self.row.get("runs", 1)) > 1

    @property
    def record(self) -> JobRecord:
        return JobRecord(self.run)


_EXPLAINED = ("failed", "unknown")
"""States whose detail is a sentence of its own."""


@dataclass(frozen=True)
class State:
    """Of a run, as far as its jobs go."""

    name: str
    """`pending`: in the scheduler's queue; `waiting`: for other runs of the same job; `running`; `finished`; `stopped`:
    saved on request or not begun; `cancelled`: the same by `sivae cancel`; `failed`; `killed`: gone without a word;
    `unknown`: the scheduler does not answer; `not submitted`: there is no job."""
    detail: str = ""

    def __str__(self) -> str:
        """As a table and a sentence have it."""
        if not self.detail:
            return self.name
        return f"{self.name}{': ' if self.name in _EXPLAINED else ' '}{self.detail}"

    @property
    def is_alive(self) -> bool:
        """As far as is known."""
        return self.name in ("pending", "waiting", "running", "unknown")


class Cluster(ABC, Generic[Asked]):
    """Hands in jobs, knows what became of them, and ends them. Has no state: any command may make one anew."""

    here: ClassVar[bool] = False
    """Whether jobs run on this machine, so that its devices and memory are looked at before one is handed in."""
    has_tasks: ClassVar[bool] = True
    """Whether a sweep can train several runs one after the other in one place (`sweep`'s `per_task`)."""
    patience: ClassVar[float] = 30.0
    """Seconds between two questions for states: a scheduler is shared by many."""

    def __init__(self, kind: str) -> None:
        """`kind`: its name in the list."""
        self.kind = kind

    @abstractmethod
    def resources(self, name: str, given: Mapping[str, Any]) -> Asked:
        """What `--cluster NAME` and the options `given` (launch/cli/resources.py) ask for.

        `name`: this kind's own, a file's (launch/clusters/files.py), or `auto`. ValueError in one line a problem.
        """

    @abstractmethod
    def check(self) -> None:
        """ValueError where no job can be handed in from this machine."""

    def script(self, run: Path, name: str, asked: Asked) -> str | None:
        """What `submit` would hand in, for a dry run on any machine; None where that is no text."""
        return None

    @abstractmethod
    def submit(self, run: Prepared, name: str, asked: Asked) -> str:
        """Hands in a run and records it (`_record`); `name` is for people. Returns the job's name.

        ValueError when it is refused.
        """

    @abstractmethod
    def sweep(
        self, folder: Path, runs: Sequence[Prepared], name: str, asked: Asked, parallel: int | None, per_task: int
    ) -> list[str]:
        """The same for the runs of a sweep's folder, `per_task` one after the other, and at most `parallel` at once (as
        many as it finds right when None). Returns the names of the jobs."""

    @abstractmethod
    def states(self, jobs: Sequence[Job]) -> list[State | None]:
        """Of jobs whose runs are not at their ends: pending, waiting or running, or None for one that is gone; what it
        left behind then says how it ended (launch/jobs.py). `unknown` when the cluster does not answer. Changes
        nothing, and asks once for all of them."""

    def check_cancel(self, jobs: Sequence[Job]) -> None:  # most clusters can be asked from anywhere
        """ValueError when one of these jobs cannot be cancelled from here."""

    @abstractmethod
    def cancel(self, jobs: Sequence[tuple[Job, State]]) -> list[str]:
        """Has living jobs save and end, or takes them out of the queue; returns what was done, in a line for each.

        Each was marked before (JobRecord.cancel), so that none is started again. ValueError when that fails.
        """

    def log(self, job: Job, rank: int) -> Path | None:
        """What process `rank` of a job printed; None when nothing is there."""
        return newest(RunDirectory(job.run).process_logs(job.name, rank))

    def _record(self, run: Prepared, job: str, **facts: Any) -> None:
        """Of a submission, with facts of the cluster's own: `runs` of the same job, processes, code."""
        JobRecord(run.path).submitted(job=job, kind=self.kind, images=run.images, **facts)


def newest(logs: Sequence[Path]) -> Path | None:
    """The one that was written last, of those with anything in them if there are such."""
    return max(logs, key=lambda path: (path.stat().st_size > 0, path.stat().st_mtime), default=None)
