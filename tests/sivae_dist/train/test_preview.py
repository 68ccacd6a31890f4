"""The pictures that a run of points shows of itself, and the words for a run without resolutions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sivae_dist.config.opening import settings_of
from sivae_dist.config.prolonging import prolonging_command
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.run.directory import RunDirectory
from sivae_dist.train.trainer import make_schedule
from sivae_dist.use.figures.plots import rendered
from sivae_dist.use.figures.points import Square, scatter
from sivae_dist.use.loading import load_run
from tests.helpers import begin, train


def toy(*more: str) -> RunSettings:
    return load_config(
        "toy/8gaussians_soft_intro",
        [
            "device=cpu", "model.hidden_units=8", "schedule.images=48", "schedule.batch=16", "objective.warmup=16",
            "schedule.milestones=[]", "monitoring.images_every=48", "monitoring.scalars_every=16", "evaluation.every=0",
            *more,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of three steps, and what it says."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("sivae_dist.monitoring.console._PLAIN_SECONDS", 0.0)
        patch.setattr("sivae_dist.monitoring.console.Reporter.say", lambda self, line: lines.append(line))
        train(begin(path, toy()))
    return path, "\n".join(lines)


def test_points_are_drawn_in_training(said: tuple[Path, str]) -> None:
    """In the square of their data set: the real ones of the test split beside their reconstructions."""
    run = RunDirectory(said[0])
    drawn = {path.stem.rpartition("-")[0]: np.asarray(Image.open(path)) for path in run.grids.glob("*.png")}
    assert drawn.keys() == {"real_reconstruction", "sample", "sample_ema"}
    with toy().data.open(0, torch.device("cpu")) as data:
        real = data.samples(1, range(data.train, data.train + 2_000)).x
    live = load_run(run.path, live=True)
    want = scatter({"real": real, "reconstructions": live.reconstruct(real, batch=2_000)}, Square(0, 0, 2))
    assert (drawn["real_reconstruction"] == rendered(want)).all()
    assert drawn["sample"].shape == drawn["sample_ema"].shape and (drawn["sample"] != drawn["sample_ema"]).any()


def test_no_resolution_is_shown(said: tuple[Path, str]) -> None:
    _, text = said
    lines = [line for line in text.splitlines() if "/48 images" in line]
    assert " px" not in text and lines[0].startswith("16/48 images  warm-up  ")
    assert lines[2].startswith("48/48 images  0s left") and "  rec " in lines[2]
    schedule = make_schedule(toy(), 100)
    assert [str(step.segment) for step in schedule.steps(0)] == ["warming up", "every step", "every step"]
    with pytest.raises(ValueError, match=r"^the batch of 16 cannot be divided .* schedule\.batch=15$"):
        schedule.check_world_size(5)


def test_a_run_is_prolonged_by_one_number(said: tuple[Path, str]) -> None:
    settings = settings_of(RunDirectory(said[0]))
    assert " schedule.images=96 " in prolonging_command(said[0], settings, make_schedule(settings, 100))
