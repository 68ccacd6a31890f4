"""`sivae submit` and what goes with it, without a cluster; tests/launch/cluster has the rest."""

import os
import signal
import time
from pathlib import Path

import pytest

from launch.record import JobRecord, runs_in
from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.run.ownership import owner_of
from tests.command import images_seen, sivae
from tests.helpers import assert_same, random_set
from tests.launch.short_grid import check_table, write_short_grid

pytestmark = pytest.mark.slow

SETTINGS = (
    "model.resolution=8",
    "schedule.images={4: 400, 8: 2000}",
    "schedule.batch=16",
    "objective.warmup=800",
    "checkpoint.every=400",
    "monitoring.scalars_every=80",
    "monitoring.images_every=0",
)
LOCAL = ("--cluster", "local", "--gpus-per-node", 0, "--tasks-per-node")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_set(tmp_path_factory.mktemp("data") / "set", samples=64)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    sivae("train", "tiny", *SETTINGS, "--data", data, "--run-dir", run, "--nproc", 2)
    return run


def wait(run: Path, state: str, limit: float = 300) -> None:
    deadline = time.monotonic() + limit
    while state not in sivae("status", run).stdout:
        assert time.monotonic() < deadline, (run / "logs" / "log.txt").read_text()
        time.sleep(0.5)


def wait_for_images(run: Path, images: int, limit: float = 300) -> None:
    deadline = time.monotonic() + limit
    while images_seen(run) < images:
        assert time.monotonic() < deadline, (run / "logs" / "log.txt").read_text()
        time.sleep(0.1)


def wait_for_starts(run: Path, count: int, limit: float = 300) -> None:
    deadline, job = time.monotonic() + limit, (JobRecord(run).last_job() or {})["job"]
    while len(JobRecord(run).starts_of(job)) < count:
        assert time.monotonic() < deadline, (run / "logs" / "log.txt").read_text()
        time.sleep(0.1)


def workers(run: Path) -> list[int]:
    """Processes that train it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"launch.worker" in words and str(run).encode() in words:
            found.append(int(path.parent.name))
    return found


def assert_equal_runs(run: Path, reference: Path) -> None:
    found, expected = (CheckpointFolder(path / "checkpoints").readable()[-1] for path in (run, reference))
    assert found.images == expected.images == 2400
    assert_same(found.load(), expected.load())
    assert (run / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


def test_in_the_background_killed_cancelled_and_continued(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ("submit", "tiny", *SETTINGS, "--data", data, "--run-dir", run, *LOCAL, 2)
    try:
        assert f"sivae logs {run} -f" in sivae(*command).stdout
        wait_for_images(run, 440)
        assert "running on" in sivae("status", run).stdout
        os.kill(workers(run)[0], signal.SIGKILL)
        wait_for_starts(run, 2)
        wait_for_images(run, 880)
        assert "was asked to save and stop" in sivae("cancel", run).stdout
        wait(run, "cancelled")
        record = JobRecord(run)
        (job,) = {row["job"] for row in record.starts_of((record.last_job() or {})["job"])}
        assert len(record.starts_of(job)) == 2
        assert "SIGKILL" in (log := sivae("logs", run).stdout) and "; started again" in log and "was cancelled" in log
        assert "no job to cancel" in sivae("cancel", run, code=1).stderr
        sivae(*command)
        wait_for_starts(run, 1)
        wait_for_images(run, record.saved() + 80)
        os.kill(int(record.starts_of((record.last_job() or {})["job"])[-1]["process"]), signal.SIGKILL)
        wait(run, "killed and left no reason")
        assert not workers(run) and owner_of(run) is None
        sivae(*command)
        assert sivae("logs", run, "-f").stdout.rstrip().endswith("start 1: has finished")
        assert "finished" in sivae("status", run).stdout
        assert_equal_runs(run, undisturbed)
    finally:
        for pid in workers(run):
            os.kill(pid, signal.SIGKILL)


def test_failures_that_another_start_cannot_fix(data: Path, tmp_path: Path) -> None:
    bad, run = random_set(tmp_path / "bad", samples=64, array_max_resolution=4), tmp_path / "run"
    broken = next((bad / "0008").glob("*-00003.tar"))
    broken.write_bytes(bytes(broken.stat().st_size))
    sivae("submit", "tiny", *SETTINGS, "--data", bad, "--run-dir", run, *LOCAL, 1)
    log = sivae("logs", run, "-f").stdout
    assert "shard-00003.tar" in log and log.rstrip().endswith("fix that and submit again")
    assert len((run / "starts.jsonl").read_text().splitlines()) == 2


def test_dry_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("tiny", *SETTINGS, "--data", data, "--run-dir", run, "--nodes", 2, "--gpus-per-node", 4, "--dry-run")
    printed = sivae("submit", *arguments).stdout
    assert printed.startswith("#!/bin/bash") and "#SBATCH --ntasks-per-node=4" in printed
    outcomes = [line.split(":")[0].split() for line in printed.splitlines() if line.startswith(("ok ", "FAILED "))]
    assert outcomes == [
        ["ok", "config"],
        ["ok", "data"],
        ["ok", "batches"],
        ["ok", "schedule"],
        ["ok", "memory"],
        ["ok", "disk", "space"],
        ["ok", "checkpoint"],
    ]
    assert not run.exists()  # nothing is left of what was tried


@pytest.mark.parametrize(
    ("arguments", "check", "message"),
    [
        (("data.path=/nowhere",), "data", "no prepared data set at /nowhere"),
        (("--gpus-per-node", 3), "batches", "3"),
    ],
)
def test_a_dry_run_tells_what_would_fail(
    data: Path, tmp_path: Path, arguments: tuple[object, ...], check: str, message: str
) -> None:
    common = ("tiny", *SETTINGS, f"data.path={data}", "--run-dir", tmp_path / "run", "--dry-run")
    printed = sivae("submit", *common, *arguments, code=1).stdout.splitlines()
    assert printed[-1].startswith(f"FAILED {check}: ") and message in printed[-1]


def test_a_sweep_in_the_background(data: Path, tmp_path: Path) -> None:
    (tmp_path / "three.yaml").write_text("config: tiny\ngrid: {seed: [0, 1]}\nruns: [{objective: {name: vae}}]\n")
    short = (
        "model.resolution=8",
        "schedule.images={4: 64, 8: 64}",
        "objective.warmup=0",
        "monitoring.scalars_every=64",
        "checkpoint.every=0",
    )
    folder = tmp_path / "three"
    common = ("sweep", tmp_path / "three.yaml", *short, f"data.path={data}", "--folder", folder, *LOCAL, 1)
    listed = sivae(*common, "--dry-run").stdout.splitlines()
    assert [line.endswith(": 128 images") for line in listed] == [True] * 3 and not folder.exists()
    sivae(*common, "--parallel", 2)
    deadline = time.monotonic() + 280
    while (table := sivae("sweep-table", folder, "--metric", "kl/real").stdout).count("finished") < 3:
        assert time.monotonic() < deadline, table
        time.sleep(1)
    values = [float(words[2]) for line in table.splitlines() if (words := line.split())[1] == "finished"]
    assert len(values) == 3 and values == sorted(values)
    assert "3 runs: 3 finished" in sivae("status", folder).stdout
    logs = sivae("logs", folder, "--lines", 1).stdout.splitlines()
    assert logs[::2] == [f"==> {run} <==" for run in runs_in(folder)]
    assert all(line.endswith("start 1: has finished") for line in logs[1::2])
    assert (
        "no run has a value of kl/reel yet; did you mean kl/real?"
        in sivae("sweep-table", folder, "--metric", "kl/reel", code=1).stderr
    )
    assert "none of these 3 runs has a job" in sivae("cancel", folder, code=1).stderr


def test_a_grid_of_points_in_the_background(tmp_path: Path) -> None:
    write_short_grid(tmp_path / "short.yaml")
    folder = tmp_path / "short"
    sivae("sweep", tmp_path / "short.yaml", "--folder", folder, *LOCAL, 1, "--parallel", 2)
    deadline = time.monotonic() + 280
    while "4 runs: 4 finished" not in (status := sivae("status", folder).stdout):
        assert time.monotonic() < deadline, status
        time.sleep(1)
    check_table(lambda *arguments: sivae(*arguments).stdout, folder, tmp_path / "map.svg")


def test_status_of_what_is_no_run(tmp_path: Path) -> None:
    assert "is not a run" in sivae("status", tmp_path, code=1).stderr
