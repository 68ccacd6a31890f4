"""The grid searches of appendix 9.2.1."""

from pathlib import Path

import pytest

from launch.sweep import Sweep, assignments, load_sweep
from sivae_dist.config.names import config_names, shipped
from sivae_dist.config.run_settings import load_config
from sivae_dist.step.schedule import Schedule

KEYS = ("objective.beta_rec", "objective.beta_kl", "objective.beta_neg", "objective.margin")
DATA = ("8gaussians", "spiral", "checkerboard", "rings")


def sweep(name: str) -> Sweep:
    path = shipped(Path(f"toy/sweeps/{name}"))
    assert path is not None
    return load_sweep(path)


@pytest.mark.parametrize(("name", "runs"), [("vae", 81), ("soft_intro", 210), ("intro", 1260)])
def test_grids_are_those_of_the_paper(name: str, runs: int) -> None:
    """Their sizes, the ends of their ranges, and table 5 in them."""
    points = list(sweep(name).points())
    assert len(points) == len({tuple(point.values()) for point in points}) == runs
    for key in KEYS[:2]:
        values = {point[key] for point in points}
        assert (min(values), max(values)) == (0.05, 1)
    if name != "vae":
        ratios = {round(point[KEYS[2]] / point[KEYS[1]], 9) for point in points}
        assert ratios == {1, 2, 3, 4, 5}
    if name == "intro":
        margins = {point[KEYS[3]] for point in points}
        assert (min(margins), max(margins)) == (1, 10)
    for data in DATA:
        objective = load_config(f"toy/{data}_{name}").objective.model_dump()
        best = {key: objective[key.rpartition(".")[2]] for key in points[0]}
        assert best in points, data


@pytest.mark.parametrize("name", ["vae", "soft_intro", "intro"])
def test_runs_are_valid_and_measured_once(name: str) -> None:
    found = sweep(name)
    points = list(found.points())
    for point in (points[0], points[-1]):
        settings = load_config(found.config, [*found.overrides, *assignments(point)])
        plan = Schedule(settings.schedule, settings.model.resolutions, 1, settings.objective.warmup_images)
        assert settings.evaluation.every == plan.total == 30_000 * 512
        assert settings.objective.model_dump()["beta_rec"] == point["objective.beta_rec"]
    assert not any("sweeps" in one for one in config_names())
