"""Image translation is trained exactly, killed or divided among processes, and shows itself while it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.use import figures
from sivae_dist.use.loading import load_run
from tests.helpers import assert_same, begin, gathered, largest_difference, on_processes, snapshot, train
from tests.painted import painted, tiny_translation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return painted(tmp_path_factory.mktemp("painted") / "set")


def ended(path: Path, chosen: RunSettings) -> dict[str, torch.Tensor]:
    return snapshot(train(begin(path, chosen)).players.tensors())


def trained(path: Path) -> dict[str, torch.Tensor]:
    """On one of several processes, all values of the run at `path` at its end."""
    return gathered(train(begin(path)))


def test_a_run_that_is_left_and_continued_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    whole = ended(tmp_path / "whole", tiny_translation(data))
    train(begin(tmp_path / "left", tiny_translation(data)), steps=3)
    assert_same(ended(tmp_path / "left", tiny_translation(data)), whole)
    rows = read_rows(RunDirectory(tmp_path / "left").metrics)
    assert rows == read_rows(RunDirectory(tmp_path / "whole").metrics) and len(rows) == 5
    for kind in ("real", "rec", "fake"):
        parts = rows[-1][f"kl/{kind}/class"] + rows[-1][f"kl/{kind}/content"]
        assert parts == pytest.approx(rows[-1][f"kl/{kind}"], rel=1e-5)
    itself = ended(tmp_path / "itself", tiny_translation(data, "model.class_from=itself"))
    assert largest_difference(itself, whole) > 1e-3


@pytest.mark.slow
def test_two_processes_learn_what_one_does(data: Path, tmp_path: Path) -> None:
    alone = ended(tmp_path / "alone", tiny_translation(data))
    prepare_run(RunDirectory(tmp_path / "together"), tiny_translation(data, "engine.max_batch_per_rank=2"))
    for values in on_processes(2, trained, tmp_path / "together"):
        assert largest_difference(values, alone) < 1e-4


def test_a_preview_shows_contents_in_the_class_of_the_first(data: Path, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    train(
        begin(run.path, tiny_translation(data, "schedule.images=8", "monitoring.images_every=8", "monitoring.grid=3"))
    )
    drawn = {path.stem.rpartition("-")[0]: np.asarray(Image.open(path)) for path in run.grids.glob("*.png")}
    assert drawn.keys() == {"real_reconstruction", "real_exchanged", "sample", "sample_ema"}
    live = load_run(run.path, live=True)
    with tiny_translation(data).data.open(0, torch.device("cpu")) as opened:
        real = opened.samples(32, range(opened.train, opened.train + 12, 2)).x
    rows = figures.in_rows(real, live.transfer(real[:1].expand(6, -1, -1, -1), real), columns=3)
    want = np.asarray(figures.grids.to_picture(figures.grid(rows, 3)))
    assert np.abs(want.astype(int) - drawn["real_exchanged"]).max() <= 1
