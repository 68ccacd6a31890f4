"""A grid search of points, shortened: on a real SLURM cluster, several runs per task, to its table and heat map."""

from pathlib import Path

import pytest

from launch.record import JobRecord, runs_in
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from tests.launch.cluster.cluster import Cluster
from tests.launch.cluster.test_training import Site, log
from tests.launch.short_grid import check_table, write_short_grid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # on a shared machine

ONE = ("--nodes", 1, "--gpus-per-node", 0, "--tasks-per-node", 1, "--cpus-per-task", 1, "--mem", "1G", "--time", 20)


def test_a_grid_of_points(cluster: Cluster, tmp_path: Path) -> None:
    """Two tasks train two runs each, one after the other."""
    write_short_grid(tmp_path / "short.yaml")
    site, folder = Site(cluster, tmp_path), tmp_path / "short"
    said = site.sivae("sweep", tmp_path / "short.yaml", "--folder", folder, "--runs-per-task", 2, *ONE)
    runs = runs_in(folder)
    assert said.startswith("4 runs in ") and len(runs) == 4
    jobs = [str((JobRecord(run).last_job() or {})["job"]) for run in runs]
    assert jobs[0] == jobs[1] != jobs[2] == jobs[3]
    for job in (jobs[0], jobs[2]):
        assert cluster.wait(job, limit=300).state == "COMPLETED", [log(run) for run in runs]
    spans = []
    for run in runs:
        begin, end = (row["time"] for row in read_rows(RunDirectory(run).starts))  # started once, and ended by itself
        spans.append((begin, end))
    assert spans[0][1] <= spans[1][0] and spans[2][1] <= spans[3][0]
    check_table(site.sivae, folder, tmp_path / "map.svg")
