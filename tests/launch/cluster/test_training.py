"""Runs on a real SLURM cluster that are disturbed in every way, and end as one that was not."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from launch.record import JobRecord
from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.run.jsonl import read_rows
from tests.command import ROOT, images_seen
from tests.helpers import assert_same, random_set
from tests.launch.cluster.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # on a shared machine

TOTAL, EVERY = 1_600, 400
SETTINGS = (
    "model.resolution=8",
    f"schedule.images={{4: 400, 8: {TOTAL - 400}}}",
    "schedule.batch=16",
    "objective.warmup=600",
    f"checkpoint.every={EVERY}",
    "monitoring.scalars_every=80",
    "monitoring.images_every=0",
    "watchdog.step_seconds=300",  # longer than any that stands still has to wait for its time limit
    "device=cpu",
)
RESOURCES = ("--nodes", 2, "--gpus-per-node", 1, "--cpus-per-task", 1, "--mem", "1G", "--time", 20)
TWO_A_NODE = ("--gpus-per-node", 2)
ON_REQUEST = "checkpoint.every=100k"
"""No checkpoint but one on request, and the last."""
HELD = ("--sbatch", "hold")
"""It waits until it is released."""
WHOLE = ("--nodes", 4, "--gpus-per-node", 1, "--cpus-per-task", 4, "--mem", "1G", "--time", 20)
"""All CPUs of the cluster."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", samples=64)


@dataclass
class Site:
    """A cluster, a data set, and a user's hands."""

    cluster: Cluster
    data: Path

    def sivae(self, *arguments: object, code: int = 0) -> str:
        """What `sivae ARGUMENTS` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "launch.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            env=self.cluster.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == code, f"ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def submit(
        self, run: Path, *more: object, resources: tuple[object, ...] = RESOURCES, data: Path | None = None
    ) -> str:
        """The id of the job."""
        data = data or self.data
        said = self.sivae("submit", "tiny", *SETTINGS, "--data", data, "--run-dir", run, *resources, *more)
        found = re.search(r"^job (\d+): ", said, re.MULTILINE)
        assert found, said
        return found[1]

    def wait_for(self, run: Path, job: str, images: int, limit: float = 300) -> None:
        """Until the run has seen so many images."""
        deadline = time.monotonic() + limit
        while images_seen(run) < images:
            assert time.monotonic() < deadline, f"{self.cluster.job(job)}\n{log(run)}"
            assert self.cluster.job(job).state in ("PENDING", "RUNNING", "COMPLETING", "SIGNALING"), log(run)
            time.sleep(0.1)

    def wait_for_start(self, run: Path, job: str, limit: float = 180) -> None:
        """Until all processes are there, and the first has left word of the start."""
        deadline = time.monotonic() + limit
        while not JobRecord(run).starts_of(job) or len(self.cluster.tasks(job)) < 2:
            assert time.monotonic() < deadline, f"{self.cluster.job(job)}\n{log(run)}"
            time.sleep(0.1)

    def finished(self, run: Path, job: str, restarts: int, limit: float = 300) -> None:
        """Waits for the end, which has to be the right one after as many restarts."""
        try:
            ended = self.cluster.wait(job, "COMPLETED", limit=limit)
        except AssertionError as error:
            error.add_note(log(run))
            raise
        assert ended.restarts == restarts, log(run)
        assert len(JobRecord(run).starts_of(job)) == restarts + 1, log(run)


def log(run: Path) -> str:
    path = run / "logs" / "log.txt"
    return path.read_text()[-3000:] if path.exists() else "no log yet"


@pytest.fixture
def site(cluster: Cluster, data: Path) -> Iterator[Site]:
    yield Site(cluster, data)
    cluster.restore()


def run_undisturbed(cluster: Cluster, data: Path, run: Path, *more: object) -> Path:
    site = Site(cluster, data)
    job = site.submit(run, *more)
    site.finished(run, job, restarts=0)
    return run


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_undisturbed(cluster, data, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def undisturbed_two_a_node(cluster: Cluster, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_undisturbed(cluster, data, tmp_path_factory.mktemp("undisturbed") / "run", *TWO_A_NODE)


def assert_equal_runs(run: Path, reference: Path) -> None:
    found, expected = (CheckpointFolder(path / "checkpoints").readable()[-1] for path in (run, reference))
    assert found.images == expected.images == TOTAL
    assert_same(found.load(), expected.load())
    assert (run / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


def test_trains_on_two_nodes(site: Site, undisturbed_two_a_node: Path) -> None:
    undisturbed = undisturbed_two_a_node
    assert images_seen(undisturbed) == TOTAL
    (start,) = JobRecord(undisturbed).starts_of(job := str((JobRecord(undisturbed).last_job() or {})["job"]))
    assert start["processes"] == 4
    assert sorted(path.name for path in (undisturbed / "logs" / "jobs").glob("*.out")) == [
        f"{job}_{rank}_log.out" for rank in range(4)
    ]
    assert f"job {job}, start 1: has finished" in log(undisturbed)
    assert "1,600/1,600 images" in log(undisturbed)
    assert "finished" in site.sivae("status", undisturbed)
    assert (undisturbed / "code" / "001" / "sivae_dist" / "train" / "trainer.py").is_file()


def test_time_limit(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    """Of a run that saves when it is asked to, and of one that does not come to it."""
    run, late = tmp_path / "run", tmp_path / "late"
    jobs = {late: site.submit(late, "--time", 1)}
    site.wait_for_start(late, jobs[late])
    with held(site.cluster.tasks(jobs[late])[1].pid):
        jobs[run] = site.submit(run, ON_REQUEST, "--time", 10)
        site.wait_for(run, jobs[run], EVERY // 2)
        # SLURM looks at limits every half minute. Until then the processes stand still; it wakes them with its signal.
        for task in site.cluster.tasks(jobs[run]):
            os.kill(task.pid, signal.SIGSTOP)
        site.cluster.run("scontrol", "update", f"JobId={jobs[run]}", "TimeLimit=1")
        for job in jobs.values():
            site.cluster.wait(job, "COMPLETED", "COMPLETING", "PENDING", "RUNNING", restarts=1, limit=300)
            with suppress(RuntimeError):  # it may have finished while the other was waited for
                site.cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    for path, job in jobs.items():
        site.finished(path, job, restarts=1)
        assert_equal_runs(path, undisturbed)
    assert "was asked to stop and saved a checkpoint; requeued" in log(run)
    assert_nothing_was_lost(run, jobs[run])
    assert "did not save before its time limit; requeued" in log(late)


@contextmanager
def held(process: int) -> Iterator[None]:
    """It stands still whoever wakes it, and so do those that wait for it, until it is killed."""
    over = threading.Event()

    def hold() -> None:
        while not over.wait(0.001):
            try:
                os.kill(process, signal.SIGSTOP)
            except ProcessLookupError:
                return

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def assert_nothing_was_lost(run: Path, job: str) -> None:
    """The second start of a run with ON_REQUEST went on with the very image that the first had come to."""
    rows = [row["images"] for row in read_rows(run / "metrics.jsonl")]
    assert rows == sorted(set(rows))
    assert JobRecord(run).starts_of(job)[1]["images"] > 0


def test_preemption(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    run, urgent = tmp_path / "run", tmp_path / "urgent"
    # Held until the other one has begun, which would be at its end before this one has been checked.
    other = site.submit(urgent, "schedule.images={4: 400, 8: 400}", *HELD, "--partition", "urgent", resources=WHOLE)
    job = site.submit(run, ON_REQUEST, "--partition", "main")
    site.wait_for(run, job, EVERY // 2)
    site.cluster.run("scontrol", "release", other)
    site.finished(urgent, other, restarts=0)
    site.finished(run, job, restarts=1)
    assert_nothing_was_lost(run, job)
    assert_equal_runs(run, undisturbed)


def test_preemption_with_the_other_loader_and_engine(site: Site, tmp_path: Path) -> None:
    """DALI decodes the level that is a tar and ZeRO divides optimizer and gradients, before and after. What comes
    between is the same run, which nobody disturbs."""
    tars = random_set(tmp_path / "tars", samples=64, array_max_resolution=4)
    run, reference = tmp_path / "run", tmp_path / "reference"
    settings = ("data.loader=dali", "engine={name: zero, stage: 2}", "--exclude", "n3,n4")
    other = site.submit(reference, *settings, *HELD, "--partition", "urgent", "--cpus-per-task", 4, data=tars)
    job = site.submit(run, ON_REQUEST, *settings, "--partition", "main", data=tars)
    site.wait_for(run, job, EVERY + 40)
    site.cluster.run("scontrol", "release", other)
    site.finished(reference, other, restarts=0)
    site.finished(run, job, restarts=1)
    assert_nothing_was_lost(run, job)
    assert_equal_runs(run, reference)


def test_requeued_by_hand(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = site.submit(run)
    site.wait_for(run, job, EVERY + 40)
    site.cluster.requeue(job)
    site.finished(run, job, restarts=1)
    assert_equal_runs(run, undisturbed)


def test_the_first_process_is_killed(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    assert_goes_on_after_a_kill(site, 0, undisturbed, tmp_path / "run")


def test_the_last_process_of_four_is_killed(site: Site, undisturbed_two_a_node: Path, tmp_path: Path) -> None:
    assert_goes_on_after_a_kill(site, 3, undisturbed_two_a_node, tmp_path / "run", *TWO_A_NODE)


def assert_goes_on_after_a_kill(site: Site, rank: int, reference: Path, run: Path, *more: object) -> None:
    job = site.submit(run, *more)
    site.wait_for(run, job, EVERY + 40)
    os.kill(site.cluster.tasks(job)[rank].pid, signal.SIGKILL)
    site.finished(run, job, restarts=1)
    assert re.search(r"failed: .*(another process is gone|a process or its node was lost).*; requeued", log(run))
    assert JobRecord(run).starts_of(job)[1]["images"] >= EVERY
    assert_equal_runs(run, reference)


@pytest.mark.parametrize("which", [0, 1], ids=["of the batch script", "another"])
def test_a_lost_node(site: Site, undisturbed: Path, tmp_path: Path, which: int) -> None:
    run = tmp_path / "run"
    job = site.submit(run)
    site.wait_for(run, job, EVERY + 40)
    site.cluster.kill_node(site.cluster.job(job).nodes[which])
    site.finished(run, job, restarts=1)
    assert JobRecord(run).starts_of(job)[1]["images"] >= EVERY
    assert_equal_runs(run, undisturbed)


def test_cancelled_and_submitted_again(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = site.submit(run)
    site.wait_for(run, job, EVERY // 2)
    assert "was asked to save and stop" in site.sivae("cancel", run)
    ended = site.cluster.wait(job, "FAILED", "COMPLETED", "CANCELLED")
    assert ended.restarts == 0
    assert "cancelled" in site.sivae("status", run)
    assert 0 < JobRecord(run).saved() < TOTAL
    again = site.submit(run)
    site.wait_for(run, again, JobRecord(run).saved() + 40)
    site.cluster.cancel(again)  # as a user does who knows no better
    assert site.cluster.wait(again).state == "CANCELLED"
    last = site.submit(run)
    site.finished(run, last, restarts=0)
    assert_equal_runs(run, undisturbed)


def test_two_jobs_on_the_same_nodes(site: Site, undisturbed: Path, tmp_path: Path) -> None:
    """One of them as in a container, whose runtime is a stand-in that runs the command where it is; the other with
    options of the user's own, which keep its environment from the job."""
    runtime = tmp_path / "bin" / "apptainer"
    runtime.parent.mkdir()
    runtime.write_text(f'#!/bin/sh\necho "$1 $2 $3" >> {tmp_path}/asked\nshift 4\nexec {sys.executable} "$@"\n')
    runtime.chmod(0o755)
    (tmp_path / "boxed.yaml").write_text(
        f"container_image: box.sif\ncontainer_runtime: apptainer\nsetup: ['export PATH={runtime.parent}:$PATH']\n"
    )
    own = ("--sbatch", "export=NONE", "--gres", "gpu:1", "--job-name", "p-s:one", "--srun", "cpu-bind=none")
    runs = {tmp_path / "one": own, tmp_path / "other": ("--cluster", tmp_path / "boxed.yaml")}
    with ThreadPoolExecutor() as pool:
        jobs = list(pool.map(lambda run: site.submit(run, "--exclude", "n3,n4", *runs[run]), runs))
    assert (
        site.cluster.run("squeue", "--noheader", "--states=all", f"--jobs={jobs[0]}", "--format=%j %b").strip()
        == "p-s:one gres:gpu:1"
    )
    spans = []
    for run, job in zip(runs, jobs, strict=True):
        site.finished(run, job, restarts=0)
        assert site.cluster.job(job).nodes == ("n1", "n2")
        begin, end = [json.loads(line)["time"] for line in (run / "starts.jsonl").read_text().splitlines()]
        spans.append((begin, end))
        assert_equal_runs(run, undisturbed)
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)  # both at once
    assert (tmp_path / "asked").read_text().splitlines() == ["exec --nv box.sif"] * 2


def test_failures_that_another_start_cannot_fix(site: Site, tmp_path: Path) -> None:
    """A damaged set ends all processes at once, with the reason where a user looks, and no requeue."""
    bad = random_set(tmp_path / "bad", samples=64, array_max_resolution=4)
    run = tmp_path / "run"
    broken = bad / "0008" / "shard-00003.tar"
    broken.write_bytes(bytes(broken.stat().st_size))
    job = site.submit(run, data=bad)
    ended = site.cluster.wait(job, limit=180)
    assert (ended.state, ended.restarts) == ("FAILED", 0)
    assert re.search(r"failed: process \d on .*shard-00003\.tar .*failure\.txt\); fix that", log(run))
    traceback = (run / "logs" / "failure.txt").read_text()
    assert "Traceback" in traceback
    # They imported the snapshot, although `sivae submit` ran where the checkout is the current directory.
    assert f'File "{run}/code/001/sivae_dist/train/trainer.py"' in traceback and f'File "{ROOT}' not in traceback


def test_several_runs_of_one_task(site: Site, tmp_path: Path) -> None:
    """Requeued in its third run, it leaves out the first ones and ends; neither a run that cannot go on nor one that
    is not wanted any more keeps the others from it."""
    bad = random_set(tmp_path / "bad", samples=64, array_max_resolution=4)
    broken = bad / "0008" / "shard-00003.tar"
    broken.write_bytes(bytes(broken.stat().st_size))
    points = [{"data.path": str(path)} for path in (site.data, site.data, site.data, bad)]
    points[0] |= {"schedule.images": {4: 200, 8: 200}, "objective.warmup": 200}
    points[3] |= {"schedule.images": {4: 16, 8: 400}, "objective.warmup": 200}
    described = {"config": "tiny", "overrides": list(SETTINGS), "runs": points}
    (tmp_path / "four.yaml").write_text(yaml.safe_dump(described))
    folder = tmp_path / "four"
    one = ("--nodes", 1, "--gpus-per-node", 2, "--cpus-per-task", 1, "--mem", "1G", "--time", 20)
    site.sivae("sweep", tmp_path / "four.yaml", "--folder", folder, "--runs-per-task", 4, *one)
    runs = sorted(path for path in folder.iterdir() if (path / "config.yaml").exists())
    (job,) = {str((JobRecord(run).last_job() or {})["job"]) for run in runs}
    assert f"job {job} will not start it" in site.sivae("cancel", runs[1])
    site.wait_for(runs[2], job, EVERY + 40)
    site.cluster.signal(job, "USR2")
    ended = site.cluster.wait(job, limit=180)
    assert (ended.state, ended.restarts) == ("FAILED", 1), [log(run) for run in runs]
    assert "fix that and submit again" in log(runs[3])
    assert [len(JobRecord(run).starts_of(job)) for run in runs] == [1, 0, 2, 1]
    assert [images_seen(run) for run in (runs[0], runs[2])] == [400, TOTAL]
    *states, counts = site.sivae("status", folder).splitlines()
    assert counts == "4 runs: 2 finished, 1 cancelled, 1 failed"
    assert [line.split()[1] for line in states[-4:]] == ["finished", "cancelled", "finished", "failed:"]


def test_a_sweep(site: Site, tmp_path: Path) -> None:
    """Of two arrays, as it has more tasks than the cluster takes in one."""
    (tmp_path / "six.yaml").write_text(
        "config: tiny\ngrid:\n  objective.beta_neg: [16, 64, 256]\n  seed: [0, 1]\n"
        f"overrides: {list(SETTINGS)!r}\n".replace("'", '"')
    )
    (tmp_path / "small.yaml").write_text("max_array_size: 4\n")
    folder = tmp_path / "six"
    one = ("--nodes", 1, "--gpus-per-node", 1, "--cpus-per-task", 1, "--mem", "1G", "--time", 20)
    short = ("schedule.images={4: 208, 8: 192}", "objective.warmup=0", "checkpoint.every=0", f"data.path={site.data}")
    place = ("--cluster", tmp_path / "small.yaml", "--folder", folder, "--parallel", 2)
    site.sivae("sweep", tmp_path / "six.yaml", *short, *place, *one)
    runs = sorted(path for path in folder.iterdir() if (path / "config.yaml").exists())
    assert len(runs) == 6
    jobs = [str((JobRecord(run).last_job() or {})["job"]) for run in runs]
    arrays = [job.split("_")[0] for job in jobs]
    assert arrays == [arrays[0]] * 4 + [arrays[-1]] * 2 and arrays[0] != arrays[-1]
    assert site.sivae("sweep-table", folder).count("pending") >= 2
    most, deadline = 0, time.monotonic() + 240
    while True:
        states = [found.state for found in site.cluster.jobs(*jobs)]
        most = max(most, states.count("RUNNING"))  # while one is COMPLETING, SLURM starts the next
        if all(state == "COMPLETED" for state in states):
            break
        assert not {"FAILED", "CANCELLED", "TIMEOUT"} & set(states), [log(run) for run in runs]
        assert time.monotonic() < deadline, states
        time.sleep(0.2)
    assert most == 2
    table = site.sivae("sweep-table", folder)
    values = [images_seen(run) for run in runs]
    assert values == [400] * 6 and table.count("finished") == 6
