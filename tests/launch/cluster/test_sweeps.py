"""A grid search of points, shortened: on a real SLURM cluster, several runs per task, to its table and heat map."""

import re
from pathlib import Path

import pytest
import yaml

from launch.record import JobRecord, runs_in
from launch.sweep import load_sweep
from sivae_dist.config.names import shipped
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import last_row, read_rows
from tests.launch.cluster.cluster import Cluster
from tests.launch.cluster.test_training import Site, log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a shared machine

IMAGES = 12_800
SHORT = (
    f"schedule.images={IMAGES}",
    "schedule.batch=128",
    "schedule.milestones=[]",
    "schedule.lr_encoder=0.005",  # after 100 steps of the paper's rate no sample is near the data, and all KL are equal
    "schedule.lr_decoder=0.005",
    "objective.warmup=6400",
    "evaluation.metrics=kl_official",
    "monitoring.scalars_every=6400",
)
ONE = ("--nodes", 1, "--gpus-per-node", 0, "--tasks-per-node", 1, "--cpus-per-task", 1, "--mem", "1G", "--time", 20)


def test_a_grid_of_points(cluster: Cluster, tmp_path: Path) -> None:
    """Two tasks train two runs each, one after the other."""
    path = shipped(Path("toy/sweeps/intro"))
    assert path is not None
    whole = load_sweep(path)
    grid = {
        "objective.beta_rec": [0.3],
        "objective.beta_kl": [0.2, 0.5],
        "objective.beta_neg": {"times": [1, 2], "of": "objective.beta_kl"},
        "objective.margin": [1],
    }
    assert list(grid) == list(whole.grid)
    described = {"config": whole.config, "overrides": [*whole.overrides, *SHORT], "grid": grid}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
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
    picture = tmp_path / "map.svg"
    options = ("--metric", "evaluation/kl_official", "--rows", "beta_kl", "--columns", "beta_neg/beta_kl")
    *table, last = site.sivae("sweep-table", folder, *options, "--plot", picture).splitlines()
    assert len(table) == 5 and all(line.split()[1] == "finished" for line in table[1:])
    rows = [last_row(RunDirectory(run).evaluation) for run in runs]
    values = [float(row["value"]) for row in rows if row is not None and row["images"] == IMAGES]
    assert [float(line.split()[2]) for line in table[1:]] == pytest.approx(sorted(values), rel=1e-5)
    assert len(set(values)) == 4
    best = values.index(min(values))
    place = f"beta_kl = {(0.2, 0.5)[best // 2]}, beta_neg/beta_kl = {best % 2 + 1}"
    assert re.fullmatch(rf"{re.escape(str(picture))}: best {min(values):.6g} at {place}", last)
    assert picture.read_text().startswith("<?xml")
