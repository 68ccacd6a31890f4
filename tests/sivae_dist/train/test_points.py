"""Points are trained on as images are: exactly, over an epoch's end, killed or divided among processes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import RunSettings, validate
from sivae_dist.run.directory import RunDirectory
from tests.helpers import assert_same, begin, gathered, largest_difference, on_processes, snapshot, train

pytestmark = pytest.mark.slow


def settings(*assignments: str) -> RunSettings:
    """Eight steps of 64 points, whose learning rate falls at the fourth and the sixth."""
    values: dict[str, Any] = {
        "device": "cpu",
        "data": {"name": "points", "distribution": "rings"},
        "model": {"name": "mlp", "hidden_layers": 2, "hidden_units": 16},
        "objective": {"name": "soft_intro", "beta_rec": 0.2, "beta_kl": 0.2, "beta_neg": 1.0, "warmup": 128},
        "schedule": {"images": 512, "batch": 64, "lr_encoder": 0.01, "lr_decoder": 0.01, "milestones": [192, 320]},
        "checkpoint": {"every": 192},
        "monitoring": {"scalars_every": 64, "images_every": 0, "trace": True},
    }
    return validate(values, "points", assignments)


def ended(path: Path, *assignments: str) -> dict[str, torch.Tensor]:
    return snapshot(train(begin(path, settings(*assignments))).players.tensors())


def trained(path: Path) -> dict[str, torch.Tensor]:
    """On one of several processes, all values of the run at `path` at its end."""
    return gathered(train(begin(path)))


@pytest.mark.parametrize("data", ["{name: points, distribution: rings}", "{name: points, path: mine.csv}"])
def test_a_run_that_is_left_and_continued_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    """The file has 90 points to train on, so that epochs end within batches."""
    monkeypatch.chdir(tmp_path)
    points = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).tolist()
    Path("mine.csv").write_text("".join(f"{x},{y}\n" for x, y in points))
    whole = ended(tmp_path / "whole", f"data={data}")
    train(begin(tmp_path / "left", settings(f"data={data}")), steps=5)
    assert_same(ended(tmp_path / "left", f"data={data}"), whole)
    traces = [RunDirectory(tmp_path / name).trace.read_text().splitlines() for name in ("whole", "left")]
    assert len(traces[0]) == 512 and set(traces[0]) == set(traces[1])
    assert largest_difference(ended(tmp_path / "other", f"data={data}", "seed=1"), whole) > 0.1


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    alone = ended(tmp_path / "alone")
    prepare_run(RunDirectory(tmp_path / "together"), settings())
    for values in on_processes(2, trained, tmp_path / "together"):
        assert largest_difference(values, alone) < 1e-5
