"""Runs as SLURM jobs, through submitit: the batch script, and handing it in."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import submitit
from submitit.helpers import clean_env

from launch.clusters import ClusterSettings, slurm_config
from launch.code import describe, snapshot
from launch.record import JobRecord
from launch.task import Task

T = TypeVar("T")


class Executor(submitit.SlurmExecutor):
    """submitit's, which also shows what it would hand in where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    def script(self) -> str:
        """The batch script."""
        return str(self._make_submission_file_text(self._submitit_command_str, "dry-run"))


def make_executor(
    folder: Path,
    plan: Path,
    name: str,
    cluster: ClusterSettings,
    code: Path | None,
    parallel: int | None = None,
    sbatch: Mapping[str, str] | None = None,
) -> Executor:
    """`plan`: a run or a sweep's plan (requeue.runs_of); `code`: a snapshot to import from; `parallel`: tasks of an
    array at once; `sbatch`: further options."""
    srun = ["--kill-on-bad-exit=1", *cluster.srun]
    python = None
    if cluster.container_image is not None:
        if cluster.container_runtime == "pyxis":
            srun.append(f"--container-image={cluster.container_image}")
            python = "python3"
        else:
            python = f"apptainer exec --nv {shlex.quote(cluster.container_image)} python3"
    requeue = f"{shlex.quote(sys.executable)} -m launch.requeue {shlex.quote(str(plan))}"
    # submitit's own handling of signals is replaced as soon as ours are listened to (launch/task.py), so that its count
    # of time-outs is never used up.
    executor = Executor(folder, max_num_timeout=10**6, python=python)
    executor.update_parameters(
        job_name=name,
        nodes=cluster.nodes,
        ntasks_per_node=cluster.processes_per_node,
        cpus_per_task=cluster.cpus_per_task,
        gpus_per_node=cluster.gpus_per_node or None,
        mem=cluster.mem,
        time=cluster.time,
        partition=cluster.partition,
        account=cluster.account,
        qos=cluster.qos,
        constraint=cluster.constraint,
        exclude=cluster.exclude,
        signal_delay_s=cluster.delay,
        wckey=None,
        stderr_to_stdout=True,
        # With a handler the shell outlives what SLURM sends to all of a job, and sees to what follows.
        setup=[
            "trap : TERM USR1 USR2",
            "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
            *cluster.setup,
            "set +e",  # whatever the setup has set: what follows a failure is decided below
            "export PYTHONSAFEPATH=1"
            + ("" if code is None else f" PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"),
            f"{requeue} {cluster.margin} &",
            "watcher=$!",
        ],
        teardown=["{ kill $watcher && wait $watcher; } 2>/dev/null", requeue],
        srun_args=srun,
        additional_parameters={"requeue": True, **cluster.sbatch, **(sbatch or {})},
        **({} if parallel is None else {"array_parallelism": parallel}),
    )
    return executor


def submit(run: Path, images: int, name: str, cluster: ClusterSettings) -> str:
    """Hands in a prepared run directory that will see so many images; returns the job's id.

    Raises ValueError when SLURM refuses it.
    """
    run = run.resolve()
    code = snapshot(run)
    executor = make_executor(run / "logs" / "jobs", run, name, cluster, code)
    job = hand_in(lambda: executor.submit(Task(run)))
    JobRecord(run).submitted(job=job.job_id, kind="slurm", images=images, **facts(cluster, code))
    return str(job.job_id)


def facts(cluster: ClusterSettings, code: Path | None) -> dict[str, Any]:
    """What is recorded of a submission."""
    return {
        "cluster": slurm_config().get("ClusterName"),
        "nodes": cluster.nodes,
        "processes": cluster.processes,
        "code": describe(code),
    }


def hand_in(submission: Callable[[], T]) -> T:
    """What submitit returns. Raises ValueError when SLURM refuses the job."""
    where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}  # of the cluster, not of a job
    try:
        # A job that is submitted out of another must not inherit its place; a user's own SBATCH_ACCOUNT and such hold.
        with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
            os.environ |= where
            return submission()
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refuses the job: {' '.join(str(error).split())}") from None
    except RuntimeError as error:  # of submitit, where there is no SLURM
        raise ValueError(f"{error}; --cluster local trains on this machine") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"the job could not be submitted: {error}") from None
