"""A SLURM cluster of four nodes on this machine, for as long as some tests take.

It is SLURM as Debian packages it: munged, slurmctld and a slurmd for each node, all on the loopback interface, with a
folder and ports of their own. So several can run beside each other. The GPUs are device files that nobody reads: enough
for SLURM to hand them out.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.launch.cluster.configuration import NODES, claim_ports, configure
from tests.launch.cluster.keeper import descendants, kill
from tests.launch.cluster.packages import PATH, Unavailable, need

__all__ = ["FINAL", "NODES", "Cluster", "Job", "Task", "Unavailable"]

FINAL = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT"}
"""States that a job leaves only if somebody requeues it. NODE_FAIL and PREEMPTED are met on the way to PENDING."""

_OTHERS = ("SLURM", "SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")
"""How variables begin that would lead commands to another cluster, or make them part of one's job."""
_FIELDS = ("JobArrayID", "Name", "Partition", "State", "RestartCnt", "NodeList", "Reason", "exit_code")


@dataclass(frozen=True)
class Job:
    """What squeue says of a job, or of an element of an array."""

    id: str
    name: str
    partition: str
    state: str
    restarts: int
    nodes: tuple[str, ...]
    reason: str
    exit_code: str
    """Status and signal of the batch script: `0:15`."""


@dataclass(frozen=True)
class Task:
    """A process that srun started."""

    pid: int
    node: str
    rank: int


class Cluster:
    """Runs from `start` to `close` or inside a with-statement. Nothing is left of it even if this process is killed."""

    def __init__(self) -> None:
        self.folder = Path()
        self.port = 0
        """Of slurmctld."""
        self._keeper: subprocess.Popen[bytes] | None = None
        self._claim: socket.socket | None = None
        self._inits: dict[str, list[int]] = {name: [] for name in NODES}

    # Start and end.

    def start(self) -> Self:
        """Returns when all nodes are idle. Raises Unavailable where it cannot be done at all."""
        need()
        try:
            self._start()
        except BaseException as error:
            error.add_note(self.logs())
            self.close()
            raise
        return self

    def _start(self) -> None:
        self._claim, self.port = claim_ports()
        self.folder = Path(tempfile.mkdtemp(prefix="sivae-slurm-"))
        keeper = Path(__file__).with_name("keeper.py")
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", str(keeper), str(os.getpid()), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=self.folder,
            env={"PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")},
        )
        configure(self.folder, self.port)
        munge = self.folder / "munge"
        files = [f"--{kind}={munge / kind}" for kind in ("key-file", "socket", "pid-file", "log-file", "seed-file")]
        daemon = self._launch("munged", "munged", "--foreground", "--force", *files)
        _until(lambda: _answers(daemon, socket.AF_UNIX, str(munge / "socket")), 60, "munged does not answer")
        controller = self._launch("slurmctld", "slurmctld", "-D", "-c")
        _until(lambda: _answers(controller, socket.AF_INET, ("127.0.0.1", self.port)), 60, "slurmctld does not answer")
        self.start_node(*NODES)

    def _launch(self, name: str, *arguments: str) -> int:
        """Starts a daemon; returns its init's id."""
        assert self._keeper and self._keeper.stdin and self._keeper.stdout, "not started"
        self._keeper.stdin.write(json.dumps([str(self.folder / f"{name}.out"), arguments]).encode() + b"\n")
        self._keeper.stdin.flush()
        return int(self._keeper.stdout.readline())

    def close(self) -> None:
        if self._keeper and self._keeper.stdin and self._keeper.stdout:
            self._keeper.stdin.close()  # it kills everything, removes the folder and ends
            self._keeper.wait(60)
            self._keeper.stdout.close()
        if self._claim:
            self._claim.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def logs(self, lines: int = 15) -> str:
        """The last lines of each daemon."""
        text = ""
        for name in ("munged", "slurmctld", *(f"slurmd.{node}" for node in NODES)):
            # What stands in the log was printed as well; without a log, what was printed tells why.
            for path in (self.folder / f"{name}.log", self.folder / f"{name}.out"):
                if path.exists() and path.stat().st_size:
                    with open(path, errors="replace") as file:
                        matters = (line for line in file if "mpi" not in line.lower())  # none is installed, nor missed
                        text += f"{path.name}:\n{''.join(deque(matters, lines))}"
                    break
        return text

    # Commands.

    @property
    def environment(self) -> dict[str, str]:
        """For programs that are to see this cluster and no other."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        return inherited | {"PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *command: str, limit: float = 120) -> str:
        """What a command (sbatch, scontrol, ...) prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=self.environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    # Jobs.

    def jobs(self, *ids: str | int) -> list[Job]:
        """These or all, ended ones too; an array's elements one by one."""
        form = ",".join(f"{field}:256|" for field in _FIELDS)
        only = ["--jobs", ",".join(map(str, ids))] if ids else []
        text = self.run("squeue", "--all", "--noheader", "--array", "--states=all", "--Format", form, *only)
        found = []
        for line in text.splitlines():
            number, name, partition, state, restarts, nodes, reason, status = map(str.strip, line.split("|")[:-1])
            exit_code = f"{int(status) >> 8}:{int(status) & 127}"
            found.append(Job(number, name, partition, state, int(restarts), _expand(nodes), reason, exit_code))
        return found

    def job(self, job: str | int) -> Job:
        """A job, or an element of an array (`17_3`)."""
        (found,) = self.jobs(job)
        return found

    def wait(self, job: str | int, *states: str, restarts: int | None = None, limit: float = 180) -> Job:
        """Waits until a job is in one of these states (by default: has ended), and has been requeued that often."""
        wanted = set(states) or FINAL
        deadline = time.monotonic() + limit
        while True:
            found = self.job(job)
            if found.state in wanted and restarts in (None, found.restarts):
                return found
            awaited = " or ".join(sorted(wanted)) + ("" if restarts is None else f" with {restarts} restarts")
            assert found.state not in FINAL, f"{found} will not be {awaited}"
            assert time.monotonic() < deadline, f"{found} is not {awaited} after {limit} s"
            time.sleep(0.2)

    def cancel(self, *jobs: str | int) -> None:
        self.run("scancel", *map(str, jobs))

    def requeue(self, job: str | int) -> None:
        self.run("scontrol", "requeue", str(job))

    def signal(self, job: str | int, name: str, *options: str) -> None:
        """To all tasks; with `--batch` to the batch script, with `--full` to both."""
        self.run("scancel", f"--signal={name}", *options, str(job))

    # Processes.

    def tasks(self, job: str | int) -> list[Task]:
        """The processes that srun started, by rank."""
        found: dict[int, Task] = {}
        for pid, node, variables in self._of_jobs():
            if "SLURM_STEP_ID" in variables and str(job) in _ids(variables):
                rank = int(variables["SLURM_PROCID"])
                found.setdefault(rank, Task(pid, node, rank))  # children have the same variables, but come later
        return [found[rank] for rank in sorted(found)]

    def processes(self, job: str | int | None = None) -> list[int]:
        """All processes of a job, or of all jobs, on all nodes: batch script, tasks, and what came of them."""
        return [pid for pid, _, variables in self._of_jobs() if job is None or str(job) in _ids(variables)]

    def _of_jobs(self) -> list[tuple[int, str, dict[str, str]]]:
        found = [(pid, name, _environment(pid)) for name in NODES for pid in self._on(name)]
        return [entry for entry in found if "SLURM_JOB_ID" in entry[2]]

    def _on(self, node: str) -> list[int]:
        """All processes there, parents before their children."""
        assert self._keeper, "not started"
        ours = descendants(self._keeper.pid)  # the id of an init that has ended may be a stranger's by now
        return descendants(*(init for init in self._inits[node] if init in ours))

    # Nodes.

    def nodes(self) -> dict[str, str]:
        """Their states, as sinfo names them. A star means that a node does not answer."""
        text = self.run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %T")
        return dict(line.split() for line in text.splitlines())

    def wait_idle(self, *names: str, limit: float = 180) -> None:
        """These nodes, or all."""
        wanted = names or NODES
        _until(lambda: all(self.nodes()[name] == "idle" for name in wanted), limit, f"{', '.join(wanted)} not idle")

    def kill_node(self, name: str) -> None:
        """SIGKILL to all that runs there. slurmd comes first, so that nothing is left to report another's end."""
        while pids := self._on(name):
            kill(*pids)
            time.sleep(0.005)

    def start_node(self, *names: str) -> None:
        """Starts slurmd there, and waits until it is idle."""
        for name in names:
            self._inits[name].append(self._launch(f"slurmd.{name}", "slurmd", "-D", "-N", name))
        self.wait_idle(*names)

    def restore(self) -> None:
        """No jobs and all nodes idle, whatever a test has left."""
        self.run("scancel", "--user=root")
        kill(*self.processes())
        if dead := [name for name in NODES if "slurmd" not in map(_name, self._on(name))]:
            self.start_node(*dead)
        for name, state in self.nodes().items():
            if state.startswith("drain"):  # SLURM takes out a node where something did not end as it should
                self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.wait_idle()


def _expand(nodes: str) -> tuple[str, ...]:
    """The names in SLURM's abbreviation, `n[1,3-4]`."""
    found: list[str] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", nodes):
        found += [f"n{number}" for number in range(int(first), int(last or first) + 1)]
    return tuple(found)


def _environment(pid: int) -> dict[str, str]:
    """With which a process began."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in text.split("\0"))


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ids(variables: dict[str, str]) -> set[str]:
    """Of the job that a process belongs to, also as an element of an array."""
    array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    return {variables["SLURM_JOB_ID"], f"{array}_{index}"}


def _answers(daemon: int, family: int, address: object) -> bool:
    if not Path(f"/proc/{daemon}").exists():
        raise RuntimeError("a daemon has ended right after its start")
    with socket.socket(family) as client:
        client.settimeout(5)
        return client.connect_ex(address) == 0  # type: ignore[arg-type]


def _until(condition: Callable[[], bool], limit: float, complaint: str) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{complaint} after {limit} s")
        time.sleep(0.05)
