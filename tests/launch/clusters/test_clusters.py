"""Clusters by name: ours, and one of a user's own, from a module that a run imports."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli import app
from launch.clusters import CLUSTERS, cluster_for, files
from launch.jobs import cancel, state_of
from tests.command import ENVIRONMENT, ROOT
from tests.helpers import random_set

OWN = '''
from pathlib import Path

from launch.clusters import CLUSTERS, Cluster, Job, Prepared, Resources, State


class QueueResources(Resources):
    slots: int = 1

    gpus = property(lambda self: 0)
    processes_per_node = property(lambda self: self.slots)
    processes = property(lambda self: self.slots)


@CLUSTERS.add("queue")
class Queue(Cluster[QueueResources]):
    """A folder in which jobs are files that say where they stand."""

    def resources(self, name, given):
        return QueueResources.model_validate({"slots": given.get("tasks_per_node", 1)})

    def check(self):
        if not self.folder.is_dir():
            raise ValueError(f"there is no queue at {self.folder}")

    def submit(self, run, name, asked):
        job = f"{name}-1"
        (self.folder / job).write_text("pending")
        self._record(run, job, processes=asked.processes)
        return job

    def sweep(self, folder, runs, name, asked, parallel, per_task):
        return [self.submit(run, f"{name}-{run.path.name}", asked) for run in runs]

    def states(self, jobs):
        files = [self.folder / job.name for job in jobs]
        return [State(file.read_text()) if file.exists() else None for file in files]

    def cancel(self, jobs):
        for job, _ in jobs:
            (self.folder / job.name).unlink()
        return [f"job {job.name} is gone" for job, _ in jobs]

    folder = Path(__file__).parent / "queue"
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a cluster called `queue`, which is forgotten again."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(CLUSTERS, "_kinds", dict(CLUSTERS))
    file = tmp_path / "own_cluster_of_a_test.py"
    file.write_text(OWN)
    yield file
    sys.modules.pop(file.stem, None)


def sivae(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.slow
def test_a_cluster_of_the_users_own(own: Path, tmp_path: Path) -> None:
    """Every command finds it: by --import when a run is submitted, by what the run imports later."""
    data = random_set(tmp_path / "data", samples=32, array_max_resolution=8, test=2)
    run = tmp_path / "run"
    submit = ("submit", "tiny", "--data", data, "--run-dir", run, "--import", own, "--cluster", "queue")
    options = ("model.resolution=8", "schedule.images={4: 16, 8: 16}", "objective.warmup=0", "--tasks-per-node", 2)
    assert "there is no cluster queue" in sivae(*submit[:6], *options, "--cluster", "queue", code=1)
    assert "FAILED queue: there is no queue at" in sivae(*submit, *options, "--dry-run", code=1)
    assert "there is no queue at" in sivae(*submit, *options, code=1) and not run.exists()
    (tmp_path / "queue").mkdir()
    assert f"job tiny-1: {run}" in sivae(*submit, *options)
    row = json.loads((run / "jobs.jsonl").read_text())
    assert (row["job"], row["kind"], row["images"], row["processes"]) == ("tiny-1", "queue", 32, 2)
    assert "device: cpu" in (run / "config.yaml").read_text()
    assert "has a job already, pending: cancel it first" in sivae(*submit, *options, code=1)
    status = [sys.executable, "-m", "launch.cli", "status", run]  # another process, which has never heard of it
    assert "pending" in subprocess.run(status, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    assert cancel([run]) == ["job tiny-1 is gone"]
    assert state_of(run).name == "cancelled"


def test_a_job_of_a_cluster_that_is_gone(own: Path, tmp_path: Path) -> None:
    """Its state is not known, and it is not taken for ended."""
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "jobs.jsonl").write_text('{"job": "7", "kind": "queue", "images": 1, "time": 0}\n')
    assert state_of(tmp_path).name == "unknown" and "queue" in state_of(tmp_path).detail
    with pytest.raises(ValueError, match="queue"):
        cancel([tmp_path])
    (tmp_path / "config.yaml").write_text(f"imports: [{own}]\n")
    assert state_of(tmp_path).name == "stopped"


def test_a_file_is_for_its_kind_of_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "USER_FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text("partition: gpu\n")
    (tmp_path / "desk.yaml").write_text("kind: local\n")
    (tmp_path / "odd.yaml").write_text("kind: slrum\n")
    kinds = {name: cluster_for(name).kind for name in ("mine", "desk", "auto", "local", "slurm", "nowhere")}
    assert kinds == {
        "mine": "slurm", "desk": "local", "auto": "slurm", "local": "local", "slurm": "slurm", "nowhere": "slurm"
    }  # fmt: skip
    with pytest.raises(ValueError, match="did you mean slurm"):
        cluster_for("odd")


def test_slurm_by_its_name_is_found_by_itself_or_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "USER_FOLDER", tmp_path)
    monkeypatch.setattr("launch.clusters.slurm.reading.slurm_config", lambda: {"ClusterName": "big"})
    (tmp_path / "mine.yaml").write_text("cluster_name: big\npartition: gpu\n")
    slurm = cluster_for("slurm")
    assert slurm.resources("slurm", {}) == slurm.resources("auto", {}) == slurm.resources("mine", {})
    (tmp_path / "slurm.yaml").write_text("kind: slurm\npartition: other\n")
    assert slurm.resources("slurm", {}).partition == "other"


def modules(*packages: str) -> dict[str, ast.Module]:
    """By dotted name."""
    paths = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in paths
    }


def imported(module: str, tree: ast.Module) -> set[str]:
    """Modules that a module names anywhere, in a function too."""
    nodes = list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found - {module}


def test_nothing_knows_which_clusters_there_are() -> None:
    """Neither by an import nor by a name, outside of their folders and the list."""
    names, strays = set(CLUSTERS), []
    for module, tree in modules("launch", "sivae_dist", "data_pipelines").items():
        rooms = [kind for kind in names if module.startswith(f"launch.clusters.{kind}")]
        if module == "launch.clusters":
            continue
        others = tuple(f"launch.clusters.{kind}" for kind in names - {*rooms})
        strays += [(module, name) for name in imported(module, tree) if name.startswith(others)]
        strays += [
            (module, node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
        ]
    assert not strays
