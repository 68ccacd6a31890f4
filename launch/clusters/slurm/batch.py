"""Writes the batch script, with its options of sbatch and srun, and submits it through submitit."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import submitit
from submitit.helpers import clean_env

from launch.clusters.slurm.options import arguments
from launch.clusters.slurm.settings import SlurmSettings

T = TypeVar("T")


class Executor(submitit.SlurmExecutor):
    """submitit's executor, which can also show its script on a machine without SLURM."""

    @classmethod
    def affinity(cls) -> int:
        return 2

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        """The job's number from sbatch's own line, among the output of a site's submission filters."""
        text = string if isinstance(string, str) else string.decode(errors="replace")
        found = re.search(r"Submitted batch job (\d+)", text)
        if found is None:
            raise RuntimeError(f"sbatch did not print the number of the job: {text!r}")
        return found[1]

    def script(self) -> str:
        """The batch script."""
        return str(self._make_submission_file_text(self._submitit_command_str, "dry-run"))


def make_executor(
    folder: Path,
    plan: Path,
    name: str,
    cluster: SlurmSettings,
    code: Path | None,
    parallel: int | None = None,
    after: str | None = None,
) -> Executor:
    """`plan`: a run, or a sweep's plan (plans.runs_of). `code`: the snapshot to import from. `parallel`: maximum number
    of concurrent tasks of an array. `after`: a further dependency, in SLURM's notation."""
    srun = ["--kill-on-bad-exit=1", *arguments(cluster.srun)]
    python = None
    if cluster.container_image is not None:
        if cluster.container_runtime == "pyxis":
            srun.append(f"--container-image={cluster.container_image}")
            python = "python3"
        else:
            python = f"apptainer exec --nv {shlex.quote(cluster.container_image)} python3"
    requeue = f"{shlex.quote(sys.executable)} -m launch.clusters.slurm.requeue {shlex.quote(str(plan))}"
    options = {"requeue": True, **cluster.gpu_options(), **cluster.sbatch}
    dependencies = [text for text in (options.get("dependency"), after) if isinstance(text, str)]
    if dependencies:
        options["dependency"] = ",".join(dependencies)
    cpus = None if options.get("cpus-per-task") is False else cluster.cpus_per_task
    # Our signal handlers soon replace submitit's (task.py), so its count of time-outs must never run out.
    executor = Executor(folder, max_num_timeout=10**6, python=python)
    executor.update_parameters(
        job_name=name if cluster.job_name is None else cluster.job_name.replace("{name}", name),
        nodes=cluster.nodes,
        ntasks_per_node=cluster.processes_per_node,
        cpus_per_task=cpus,
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
        # With handlers, the shell survives signals that SLURM sends to the whole job, and runs the lines below.
        setup=[
            "trap : TERM USR1 USR2",
            *([] if cpus is None else ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]),
            "export SLURM_EXPORT_ENV=ALL",  # or --export=NONE would hide the following variables from the processes
            *cluster.setup,
            "set +e",  # in case the setup has set it: failures are handled below
            "export PYTHONSAFEPATH=1"
            + ("" if code is None else f" PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"),
            f"{requeue} {cluster.margin} &",
            "watcher=$!",
        ],
        teardown=["{ kill $watcher && wait $watcher; } 2>/dev/null", requeue],
        srun_args=srun,
        additional_parameters={name: value for name, value in options.items() if value is not False},
        **({} if parallel is None else {"array_parallelism": parallel}),
    )
    return executor


def check_sbatch() -> None:
    """ValueError if this machine cannot submit jobs."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "sbatch was not found on this machine: submit from a login node of a SLURM cluster (you may have to load "
            "its module), or train on this machine with --cluster local"
        )


def hand_in(executor: Executor, submission: Callable[[], T]) -> T:
    """Submits; returns the result of `submission`. Raises ValueError when SLURM refuses the job."""
    check_sbatch()
    where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}  # the cluster's, not a job's
    before = dict(os.environ)
    try:
        # A job submitted from within another must not inherit its environment. A user's own SBATCH_ACCOUNT etc. apply
        # only where the script has no line for them; sbatch itself would give them precedence.
        with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
            os.environ |= where
            for name in _overridden(executor.script()):
                os.environ.pop(name, None)
            return submission()
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"SLURM refused the job: {_sentences(str(error))}") from None
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise ValueError(f"the job could not be submitted: {' '.join(str(error).split())}") from None
    finally:
        os.environ.update(before)


def _overridden(script: str) -> set[str]:
    """Environment variables of sbatch that would override lines of the script."""
    names = {line.removeprefix("#SBATCH --").partition("=")[0] for line in script.splitlines() if "#SBATCH --" in line}
    names |= {"array-inx", "no-requeue", "no-kill", "wait", "timelimit", "mem-per-node", "quiet"}
    if names & {"gpus-per-node", "gpus", "gpus-per-task", "gres"}:
        names |= {"gpus-per-node", "gpus", "gpus-per-task", "gres"}
    return {f"SBATCH_{name.upper().replace('-', '_')}" for name in names}


def _sentences(text: str) -> str:
    """sbatch's error messages on one line."""
    lines = (re.sub(r"^\s*sbatch:\s*(error:\s*)?", "", line).strip() for line in text.splitlines())
    return "; ".join(line for line in lines if line) or "sbatch gave no reason"
