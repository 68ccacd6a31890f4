"""Processes of a job that do not come to train, and what jobs import."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch import code
from launch.clusters.slurm import task
from launch.clusters.slurm.place import SlurmPlace
from launch.record import JobRecord
from sivae_dist.run.ends import Logs
from sivae_dist.run.ownership import owned
from tests.command import ENVIRONMENT


def place(rank: int) -> SlurmPlace:
    return SlurmPlace(job="17", restart=1, index=0, rank=rank, local_rank=0, world_size=2, node="n1")


def test_a_run_that_another_command_trains(tmp_path: Path) -> None:
    """The reason is the start's own, and what the other has left of itself stays."""
    logs = Logs(tmp_path / "logs")
    logs.note_failure(0, "ValueError: of the other", final=True)
    with owned(tmp_path), pytest.raises(ValueError, match="is being trained by process"):
        task._train(tmp_path, place(0), None)
    row = JobRecord(tmp_path).start("17", 1)
    assert row is not None and "is being trained by process" in row["failed"]
    assert "of the other" in logs.failure.read_text()


def test_a_first_process_that_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_PATIENCE", 0.1)
    with pytest.raises(OSError, match="did not publish its address"):
        task._train(tmp_path, place(1), None)
    reason = Logs(tmp_path / "logs").reason() or ""
    assert reason.startswith("process 1 on ") and "the first process did not publish its address within 0 s" in reason


@pytest.mark.slow
def test_threads_are_the_cpus_of_the_task() -> None:
    """Known before torch is imported, which asks once; a user's environment need not say so, nor reach the job."""
    program = (
        "import launch.clusters.slurm.task as task; task.runs_of = lambda *_: [None]\n"
        "def train(*_):\n    import torch\n    print(torch.get_num_threads())\n    return 0\n"
        "task._train = train; task.Task(None)()"
    )
    environment = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("OMP_")}
    environment |= {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=True)
    assert done.stdout == "1\n"


def test_a_snapshot_holds_modules_that_git_does_not_know_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "checkout"
    root.mkdir()
    for name in ("known.py", "new.py", "ignored.py", "data.bin"):
        (root / name).write_text("first")
    (root / ".gitignore").write_text("ignored.py\n")
    git = ["git", "-C", root, "-c", "user.name=x", "-c", "user.email=x@y"]
    for command in (["init", "--quiet"], ["add", "known.py"], ["commit", "--quiet", "-m", "x"]):
        subprocess.run([*git, *command], check=True, timeout=120)
    (root / "known.py").write_text("edited")
    monkeypatch.setattr(code, "ROOT", root)
    copy = code.snapshot(tmp_path / "run")
    assert copy is not None
    assert {path.name: path.read_text() for path in copy.glob("[!.]*")} == {"known.py": "edited", "new.py": "first"}
