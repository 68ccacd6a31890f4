"""The cluster itself: it behaves as SLURM does elsewhere, and leaves nothing behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launch.cluster import configuration, packages
from tests.launch.cluster.cluster import NODES, Cluster, Unavailable
from tests.launch.cluster.keeper import descendants

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
FOREVER = "srun --kill-on-bad-exit=1 sleep 600"


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Cluster]:
    yield cluster
    cluster.restore()


def submit(cluster: Cluster, script: str, *options: str) -> str:
    return cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}").strip()


def until(condition: Callable[[], object], limit: float = 120) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def mentioning(text: str) -> list[str]:
    """Commands of the living processes with this in their arguments or their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                arguments = (entry / "cmdline").read_text()
                if text in arguments or text in (entry / "environ").read_text(errors="replace"):
                    found.append(arguments.replace("\0", " "))
            except OSError:
                pass
    return found


def started_by(cluster: Cluster) -> set[int]:
    """All of a cluster's processes."""
    assert cluster._keeper
    return {cluster._keeper.pid, *descendants(cluster._keeper.pid)}


def test_step_on_two_nodes(cluster: Cluster) -> None:
    options = ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--gpus-per-task=1"]
    said = cluster.run("srun", *options, "sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES")
    assert sorted(said.splitlines()) == ["0 n1 0", "1 n1 1", "2 n2 0", "3 n2 1"]


def test_tasks_ignore_no_signals(cluster: Cluster) -> None:
    """Whoever started the daemons may, and signals that are ignored are inherited."""
    ignored = int(cluster.run("srun", "sed", "-n", "s/^SigIgn:\\t//p", "/proc/self/status"), 16)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2):
        assert not ignored >> (number - 1) & 1, number


def test_tasks_and_processes(site: Cluster) -> None:
    job = submit(site, FOREVER, "--nodes=2", "--ntasks-per-node=2")
    until(lambda: len(site.tasks(job)) == 4)
    assert [(task.rank, task.node) for task in site.tasks(job)] == [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2")]
    assert {task.pid for task in site.tasks(job)} < set(site.processes(job))  # the batch script and srun
    assert site.job(job).state == "RUNNING" and site.job(job).nodes == ("n1", "n2")
    os.kill(site.tasks(job)[3].pid, signal.SIGKILL)
    assert site.wait(job).state == "FAILED"
    with pytest.raises(AssertionError, match="will not be RUNNING"):
        site.wait(job, "RUNNING")


def test_array(site: Cluster) -> None:
    jobs = submit(site, "sleep 3; test $SLURM_ARRAY_TASK_ID != 2", "--array=0-3%2")
    most = 0
    while any(element.state != "COMPLETED" and element.state != "FAILED" for element in site.jobs(jobs)):
        most = max(most, sum(element.state == "RUNNING" for element in site.jobs(jobs)))
    assert most == 2
    assert site.wait(f"{jobs}_2").exit_code == "1:0"
    assert {element.state for element in site.jobs(jobs) if element.id != f"{jobs}_2"} == {"COMPLETED"}
    with pytest.raises(RuntimeError, match="Invalid job array"):
        submit(site, "true", f"--array=0-{configuration.MAX_ARRAY_SIZE}")


def test_preemption(site: Cluster, tmp_path: Path) -> None:
    """The signal that a job has asked for comes first, and ends it long before its grace is over."""
    asked = tmp_path / "asked"
    script = f"trap 'touch {asked}; scontrol requeue $SLURM_JOB_ID' USR2; sleep 600 & wait; wait"
    job = submit(site, script, "--nodes=4", "--signal=B:USR2@30", "--partition=main")
    site.wait(job, "RUNNING")
    until(lambda: len(site.processes(job)) == 2)  # the trap is set
    urgent = submit(site, "true", "--nodes=4", "--exclusive", "--partition=urgent")
    assert site.wait(urgent, limit=configuration.GRACE).state == "COMPLETED"
    assert asked.exists()
    site.wait(job, "PENDING", "RUNNING", restarts=1)


def test_requeue_and_a_lost_node(site: Cluster) -> None:
    job, lost = submit(site, FOREVER, "--nodelist=n1"), submit(site, FOREVER, "--nodelist=n4")
    until(lambda: site.tasks(job) and site.tasks(lost))
    site.kill_node("n4")
    assert site.processes(job) and not site.processes(lost)
    site.requeue(job)
    assert site.wait(job, "RUNNING", restarts=1).reason == "None"
    assert site.wait(lost, "PENDING", restarts=1).nodes == ()
    assert site.nodes() == {"n1": "mixed", "n2": "idle", "n3": "idle", "n4": "down*"}
    site.start_node("n4")
    assert site.nodes()["n4"] == "idle"


def test_no_other_cluster_is_seen(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CONF", "SLURMD_NODENAME", "SBATCH_PARTITION", "SQUEUE_STATES"):
        monkeypatch.setenv(name, "elsewhere")
    assert "elsewhere" not in cluster.environment.values()


def test_nothing_is_left(cluster: Cluster) -> None:
    """Beside another cluster, which does not notice."""
    with Cluster() as other:
        submit(other, "setsid --fork sleep 600; trap '' TERM; srun sleep 600", "--nodes=4")
        until(lambda: len(other.processes()) >= 4 + 3)
        assert len(mentioning(str(other.folder))) >= 4 + 3
        everything = started_by(other)
        assert len(everything) > 20
    assert not other.folder.exists()
    assert not mentioning(str(other.folder))
    assert not [pid for pid in everything if Path(f"/proc/{pid}").exists()]
    for port in range(other.port, other.port + 1 + len(NODES)):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", port))
            listener.listen()
    assert set(cluster.nodes().values()) == {"idle"}


def test_nothing_is_left_when_its_starter_is_killed() -> None:
    program = (
        "import time; from tests.launch.cluster.cluster import Cluster; c = Cluster().start();"
        "print(c.folder, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert starter.stdout
    with starter.stdout:
        folder = starter.stdout.readline().strip()
    assert len(mentioning(folder)) > 10
    starter.kill()
    starter.wait()
    until(lambda: not mentioning(folder) and not Path(folder).exists())


def test_says_why_it_does_not_start(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "_SLURM", configuration._SLURM + "Nonsense=1\n")
    other = Cluster()
    with pytest.raises(RuntimeError, match="ended right after its start") as raised:
        other.start()
    assert "Nonsense" in "".join(raised.value.__notes__)
    assert not other.folder.exists() and not mentioning(str(other.folder))


def test_says_why_it_cannot_start_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(Unavailable, match="by root only"):
            Cluster().start()
    with monkeypatch.context() as patch:
        patch.setattr(packages, "PATH", "/nowhere")
        with pytest.raises(Unavailable, match=r"munge, rsync, slurm-wlm.*no apt-get"):
            Cluster().start()
