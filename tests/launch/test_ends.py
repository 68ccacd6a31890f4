"""How a run on several processes ends before its end: asked to, or because one of them has come to grief."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.run.jsonl import read_rows
from tests.command import ENVIRONMENT, command, images_seen, sivae, started, told, wait_for_images, worker_ids

pytestmark = pytest.mark.slow

SMALL = (
    "tiny", "model.resolution=8", "model.base_width=4", "model.max_width=8", "model.latent=8", "schedule.batch=8",
    "objective.warmup=0", "device=cpu", "monitoring.scalars_every=8", "monitoring.images_every=0",
)  # fmt: skip
LONG = (*SMALL, "schedule.images=100k")


def newest(run: Path) -> int:
    return CheckpointFolder(run / "checkpoints").readable()[-1].images


def nobody_is_left(run: Path) -> None:
    end = time.monotonic() + 60
    while worker_ids(run):
        assert time.monotonic() < end, "processes are left behind"
        time.sleep(0.1)


# Asked to.


@pytest.mark.parametrize(
    ("number", "target"),
    [(signal.SIGHUP, "launcher"), (signal.SIGUSR1, "one process"), (signal.SIGINT, "everyone")],
)
def test_a_signal_saves_the_step_and_ends_all(number: int, target: str, data: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    with started("train", *LONG, "--data", data, "--run-dir", run, "--nproc", 2, log=log) as process:
        wait_for_images(process, run, 64, log)
        everyone = [process.pid, *worker_ids(run)]
        assert len(everyone) == 3
        for pid in {"launcher": everyone[:1], "one process": everyone[2:], "everyone": everyone}[target]:
            os.kill(pid, number)
        assert process.wait(timeout=120) == 75
    said = log.read_text()
    assert "stopped as asked, and saved: run the same command again to continue" in said
    assert "Traceback" not in said and "error" not in said
    rows = read_rows(run / "metrics.jsonl")
    assert newest(run) == rows[-1]["images"] >= 64  # nothing that was done is lost
    nobody_is_left(run)


def test_a_signal_while_the_processes_start_is_a_request_as_well(data: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    with started("train", *LONG, "--data", data, "--run-dir", run, "--nproc", 2, log=log) as process:
        end = time.monotonic() + 60
        while len(worker_ids(run)) < 2:
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 75
    said = log.read_text()
    assert "error" not in said
    saved = "and saved" if list((run / "checkpoints").glob("images-*")) else "before the first checkpoint"
    assert f"stopped as asked, {saved}: run the same command again to continue" in said
    nobody_is_left(run)


def test_a_process_alone_stops_as_well(data: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    with started("train", *LONG, "--data", data, "--run-dir", run, "--nproc", 1, log=log) as process:
        wait_for_images(process, run, 64, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 75
    assert newest(run) == images_seen(run) >= 64


def test_a_second_ctrl_c_ends_at_once_what_one_cannot_end(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with faulty("freeze:1:5", *LONG, "--data", data, "--run-dir", run) as process:
        wait_for_images(process, run, 32, tmp_path / "log")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 130
        nobody_is_left(run)


# Come to grief.


def test_nothing_that_comes_after_the_end_changes_it(data: Path, tmp_path: Path) -> None:
    with faulty("at-exit:1:0", *SMALL, "schedule.images=32", "--data", data, "--run-dir", tmp_path / "run") as process:
        _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said


def faulty(fault: str, *arguments: object) -> "subprocess.Popen[str]":
    """`sivae train` on two processes with a fault (tests/faulty_worker.py) built into one."""
    program = "from launch import cli, launcher; launcher.WORKER = 'tests.faulty_worker'; cli.main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "train", *map(str, arguments), "--nproc", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT | {"FAULT": fault},
    )  # fmt: skip


def fails(fault: str, data: Path, run: Path, *settings: str, limit: float = 300) -> str:
    """Runs with a fault; returns the last line on the terminal."""
    with faulty(fault, *LONG, *settings, "--data", data, "--run-dir", run) as process:
        try:
            _, said = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 1, said
    assert "Traceback" not in said, said
    nobody_is_left(run)
    return said.splitlines()[-1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_raises_ends_all_and_its_traceback_is_kept(rank: int, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = fails(f"raise:{rank}:4", data, run)
    failure = run / "logs" / "failure.txt"
    assert (
        line
        == f"error: process {rank} on {socket.gethostname()}: KeyError: 'an injected fault' (its traceback: {failure})"
    )
    text = failure.read_text()
    assert text.startswith(f"process {rank} on ") and 'raise KeyError("an injected fault")' in text
    if rank == 0:
        sivae("train", *LONG, "schedule.images=64", "--data", data, "--run-dir", run, "--nproc", 1)
        assert not failure.exists()  # the next attempt is another


@pytest.mark.parametrize(("fault", "words"), [("kill", "was killed by SIGKILL"), ("exit", "ended with code 3")])
def test_a_process_that_dies_without_a_word_ends_all(fault: str, words: str, data: Path, tmp_path: Path) -> None:
    assert f"process 1 {words}" in fails(f"{fault}:1:4", data, tmp_path / "run")


@pytest.mark.parametrize("fault", ["hang", "freeze", "save-hang"])
def test_a_process_that_hangs_is_found(fault: str, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    limits = ("watchdog.step_seconds=15", "watchdog.slow_seconds=45")
    line = fails(f"{fault}:1:4", data, run, *limits, "checkpoint.every=64")
    assert "made no progress; where its threads were: " in line
    stacks = {path.name: path.read_text() for path in (run / "logs").glob("stacks-*.txt") if path.stat().st_size}
    assert all(str(run / "logs" / name) in line for name in stacks)
    if fault == "freeze":  # a stopped process cannot tell; that it waited for it, its partner can
        assert "all_reduce" in stacks["stacks-0.txt"] or "backward" in stacks["stacks-0.txt"]
    else:
        assert "hang_here" in stacks["stacks-1.txt"]


# One at a time.


def test_one_command_at_a_time_trains_a_run(data: Path, tmp_path: Path) -> None:
    log, run = tmp_path / "log", tmp_path / "run"
    # Without a checkpoint another length is no contradiction.
    arguments = ("train", *LONG, "checkpoint.every=0", "--data", data, "--run-dir", run, "--nproc", 2)
    with started(*arguments, log=log) as process:
        wait_for_images(process, run, 32, log)
        refusal = told(sivae(*arguments, code=1).stderr)
        assert refusal == [f"error: {run} is being trained by process {process.pid} on {socket.gethostname()}"]
        owner = process.pid
        process.kill()
    nobody_is_left(run)
    done = subprocess.run(
        command(*arguments, "schedule.images=64"),
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        check=True,
    )
    assert (
        f"note: process {owner} on {socket.gethostname()}, which trained this run, is gone; taking over" in done.stdout
    )
    again = sivae(*arguments, "schedule.images=64")
    assert "taking over" not in again.stdout
