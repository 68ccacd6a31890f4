"""Jobs in the background of this machine: their places and states."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from launch.clusters.local.cluster import slots, visible_gpus
from launch.jobs import cancel, state_of, states_of
from launch.record import JobRecord
from sivae_dist.run.ends import STOPPED, Logs
from sivae_dist.run.ownership import owned

Answer = Callable[[str], None]


@pytest.mark.parametrize(
    ("parallel", "gpus", "each", "expected"),
    [
        (None, [], 1, [None] * 8),
        (2, [], 1, [None] * 2),
        (None, ["0", "1", "2"], 1, ["0", "1", "2"]),
        (None, ["0", "1", "2", "3", "4"], 2, ["0,1", "2,3"]),
        (1, ["4", "GPU-6d"], 1, ["4"]),
        (3, ["0", "1"], 1, ["0", "1", "0"]),
    ],
)
def test_each_place_of_a_local_sweep_has_its_gpus(
    parallel: int | None, gpus: list[str], each: int, expected: list[str | None]
) -> None:
    assert slots(parallel, gpus, each) == expected


def test_too_few_gpus_for_a_run() -> None:
    with pytest.raises(ValueError, match="each run requests 4 GPUs, but only 2 are visible"):
        slots(None, ["0", "1"], 4)


@pytest.mark.parametrize(
    ("visible", "count", "expected"),
    [(None, 2, ["0", "1"]), ("3, 5", 2, ["3", "5"]), ("GPU-6d,7", 2, ["GPU-6d", "7"]), ("0,9", 1, ["0"]), ("", 0, [])],
)
def test_visible_gpus(monkeypatch: pytest.MonkeyPatch, visible: str | None, count: int, expected: list[str]) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert visible_gpus() == expected


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like one that supervises job `local-1`."""
    with subprocess.Popen(["sh", "-c", "read line", "local-1"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_runs_of_a_sweep_on_this_machine(tmp_path: Path, supervisor: subprocess.Popen[bytes]) -> None:
    """A run is alive as long as its own supervisor is, and waits as long as the sweep's is."""
    names = ("now", "later", "unwanted", "saved", "broken", "killed")
    runs = {name: tmp_path / name for name in names}
    for run in runs.values():
        facts = {"kind": "local", "images": 400, "runs": 6, "host": socket.gethostname()}
        JobRecord(run).submitted(job="local-1", process=supervisor.pid, **facts)
    JobRecord(runs["unwanted"]).cancel("local-1")
    JobRecord(runs["now"]).started("local-1", 0, process=supervisor.pid)
    gone = subprocess.Popen(["true"])
    gone.wait(60)
    for name, code in {"saved": STOPPED, "broken": 1, "killed": None}.items():
        JobRecord(runs[name]).started("local-1", 0, process=gone.pid)
        if code is not None:
            JobRecord(runs[name]).ended("local-1", 0, code)
    Logs(runs["broken"] / "logs").note_failure(0, "ValueError: no", final=True)
    found = dict(zip(names, states_of([*runs.values()]), strict=True))
    assert {name: state.name for name, state in found.items()} == {
        "now": "running", "later": "waiting", "unwanted": "cancelled", "saved": "stopped", "broken": "failed",
        "killed": "killed",
    }  # fmt: skip
    assert found["broken"].detail.endswith("ValueError: no")
    supervisor.kill()
    supervisor.wait(60)
    found = dict(zip(names, states_of([*runs.values()]), strict=True))
    assert (found["now"].name, found["later"].name) == ("killed", "stopped")
    with owned(runs["now"]):  # until it has saved, as its supervisor's end has asked it to
        assert state_of(runs["now"]).name == "running" and "supervisor was killed" in state_of(runs["now"]).detail
        assert cancel([runs["now"]]) == ["job local-1 was asked to save and stop"]
