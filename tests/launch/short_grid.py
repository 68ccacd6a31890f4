"""A grid search of appendix 9.2.1, shortened to four runs of seconds, and its table and heat map."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from launch.record import runs_in
from launch.sweep import load_sweep
from sivae_dist.config.names import shipped
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import last_row

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


def write_short_grid(file: Path) -> None:
    """Four points of IntroVAE's grid: two values of beta_kl, and beta_neg as one or two times each."""
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
    file.write_text(yaml.safe_dump(described, sort_keys=False))


def check_table(sivae: Callable[..., str], folder: Path, picture: Path) -> None:
    """The table is sorted by what the runs measured themselves; the heat map names the best point."""
    options = ("--metric", "evaluation/kl_official", "--rows", "beta_kl", "--columns", "beta_neg/beta_kl")
    *table, last = sivae("sweep-table", folder, *options, "--plot", picture).splitlines()
    assert len(table) == 5 and all(line.split()[1] == "finished" for line in table[1:])
    rows = [last_row(RunDirectory(run).evaluation) for run in runs_in(folder)]
    values = [float(row["value"]) for row in rows if row is not None and row["images"] == IMAGES]
    assert [float(line.split()[2]) for line in table[1:]] == pytest.approx(sorted(values), rel=1e-5)
    assert len(set(values)) == 4
    best = values.index(min(values))
    place = f"beta_kl = {(0.2, 0.5)[best // 2]}, beta_neg/beta_kl = {best % 2 + 1}"
    assert re.fullmatch(rf"{re.escape(str(picture))}: best {min(values):.6g} at {place}", last)
    assert picture.read_text().startswith("<?xml")
