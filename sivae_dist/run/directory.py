"""A run's directory, the contract between training and everything that looks at it: where each file lies.

RUN/config.yaml                 the settings as resolved (config/opening.py)
RUN/checkpoints/                images-N/ for each checkpoint, damaged/ for those moved aside; see sivae_dist/checkpoint
RUN/tensorboard/                events of training
RUN/tensorboard/evaluation/     events of `sivae evaluate`
RUN/metrics.jsonl               what follows from settings and seed
RUN/speed.jsonl                 what follows from the machine
RUN/evaluation.jsonl            FID and other values, each with what it follows from
RUN/trace.jsonl                 what stood at every position (monitoring.trace)
RUN/micro_batches.json          what engine.max_batch_per_rank=auto has found, and on which hardware
RUN/figures/                    pictures that commands are asked to draw there
RUN/figures/curves.png          of metrics.jsonl, drawn at the end
RUN/figures/training/           NAME-IMAGES.png, the image grids of training; see monitoring/grids.py
RUN/jobs.jsonl                  a line per submission
RUN/starts.jsonl                a line per start of its processes, and per end; see launch/record.py
RUN/.cancel-JOB                 `sivae cancel` has asked this job to save and end
RUN/code/                       snapshots of the code: 001/ and so on, one per submission
RUN/logs/                       what each process printed; see `Logs` in run/ends.py
RUN/logs/log.txt                for people: the first process, and what became of each start
RUN/logs/failure.txt            how the last attempt failed: the traceback of the process that failed first
RUN/logs/stacks-N.txt           where the threads of process N were when it was found hanging
RUN/logs/jobs/                  submitit's files: the batch script, JOB_N_log.out of process N
RUN/logs/jobs/rendezvous-JOB-RESTART.json  where the processes of one start meet
RUN/logs/evaluate/              failure.txt and the like, of `sivae evaluate`
RUN/.lock, RUN/.owner           who trains the run (run/ownership.py)

Nothing here opens a file or reads settings, so that it costs nothing to import.
"""

from dataclasses import dataclass
from pathlib import Path

from sivae_dist.run.ends import Logs

_CONFIG = "config.yaml"

FORERUNNERS = frozenset(
    {"checkpoints", "tensorboard", "figures", "logs", "code", "micro_batches.json"}
    | {f"{name}.jsonl" for name in ("metrics", "speed", "evaluation", "trace", "jobs", "starts")}
)
"""Entries that a run's directory may have before it has a config.yaml."""


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run; none of them need exist."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether there is a run, that is, recorded settings."""
        return self.config.is_file()

    @property
    def config(self) -> Path:
        return self.path / _CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def speed(self) -> Path:
        return self.path / "speed.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.jsonl"

    @property
    def trace(self) -> Path:
        return self.path / "trace.jsonl"

    @property
    def micro_batches(self) -> Path:
        return self.path / "micro_batches.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def grids(self) -> Path:
        return self.figures / "training"

    @property
    def curves(self) -> Path:
        return self.figures / "curves.png"

    @property
    def jobs(self) -> Path:
        return self.path / "jobs.jsonl"

    @property
    def starts(self) -> Path:
        return self.path / "starts.jsonl"

    def cancelled(self, job: str) -> Path:
        """A file that exists once `sivae cancel` has asked this job to end."""
        return self.path / f".cancel-{job}"

    @property
    def code(self) -> Path:
        return self.path / "code"

    @property
    def logs(self) -> Logs:
        """The logs of training."""
        return Logs(self.path / "logs")

    @property
    def evaluation_logs(self) -> Logs:
        """The logs of `sivae evaluate`, which may run while the run is trained."""
        return Logs(self.path / "logs" / "evaluate")

    @property
    def job_logs(self) -> Path:
        return self.logs.path / "jobs"

    def rendezvous(self, job: str, restart: int) -> Path:
        """The file in which the first process of a start records its address for the others."""
        return self.job_logs / f"rendezvous-{job}-{restart}.json"

    def process_logs(self, job: str, rank: int) -> list[Path]:
        """Files with the output of process `rank` that exist: of this job, alone or in a sweep, or on this machine."""
        name = f"{job}_{rank}_log.out"
        of_job = (self.job_logs / name, SweepFolder(self.path.parent).job_logs / name)
        return [path for path in (*of_job, *self.logs.path.glob(f"**/{rank}/std*.log")) if path.is_file()]

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def owner(self) -> Path:
        return self.path / ".owner"


@dataclass(frozen=True)
class SweepFolder:
    """The paths of a sweep, whose runs are directories within its folder.

    SWEEP/sweep.json   the settings of each run, with the name of its directory as `run`
    SWEEP/plans/       for each job array, the runs of each of its tasks
    SWEEP/jobs/        submitit's files
    """

    path: Path

    @property
    def index(self) -> Path:
        return self.path / "sweep.json"

    @property
    def plans(self) -> Path:
        return self.path / "plans"

    @property
    def job_logs(self) -> Path:
        return self.path / "jobs"


def runs_below(path: Path) -> list[Path]:
    """The directories of all runs below `path`, in the order of their names."""
    return sorted(config.parent for config in path.rglob(_CONFIG))
