"""Normalization over the whole batch (model.norm=batch): any number of processes, every engine, and what moves it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae_dist.checkpoint import CheckpointFolder
from sivae_dist.config.opening import prepare_run
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Stage
from sivae_dist.process.processes import rank
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Segment
from sivae_dist.train.preview import preview
from sivae_dist.train.trainer import Trainer
from tests.engines import ENGINES
from tests.helpers import (
    assert_same,
    begin,
    differences,
    disturb,
    gathered,
    labelled_set,
    on_processes,
    snapshot,
    tiny_settings,
    train,
)

MODEL = "model={{name: residual, resolution: 8, latent: 8, widths: [6], norm: batch, track: {track}}}"


def settings(data: Path, *assignments: str, track: str = "real") -> RunSettings:
    """6 steps of 8 images at 8 px."""
    usual = (MODEL.format(track=track), "objective.style_mixing=0", "schedule.images=48", "optimizer.eps=1e-6")
    return tiny_settings(data, *usual, *assignments)


def opened(path: Path, data: Path, *assignments: str, track: str = "real") -> Path:
    prepare_run(RunDirectory(path), settings(data, *assignments, track=track))
    return path


def statistics(trainer: Trainer) -> dict[str, Tensor]:
    return {name: t for name, t in snapshot(trainer.players.tensors()).items() if "running" in name}


# Any number of processes, every engine.


def _ran(paths: list[Path], steps: int) -> list[dict[str, Tensor]] | None:
    results = [gathered(train(disturb(begin(path)), steps=steps)) for path in paths]
    return results if rank() == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("track", ["real", "all"])
def test_number_of_processes_changes_nothing(data: Path, tmp_path: Path, track: str) -> None:
    """Moments, which are gradients at first, weights, statistics and averages; recomputed activations too."""
    results = {}
    for count in (1, 2, 4):
        paths = [opened(tmp_path / f"{count}", data, track=track)]
        if count == 2:
            paths.append(opened(tmp_path / "again", data, "engine.checkpoint_activations=true", track=track))
        results[count], *others = on_processes(count, _ran, paths, 2)[0]
        for other in others:
            assert_same(other, results[count])
    assert any("running_var" in name and "ema" in name for name in results[1])
    for count in (2, 4):
        found = differences(results[count], results[1])
        assert max(found.values()) <= 1e-5, found
        assert max(found.values()) > 0  # another order of summation, which shows that it is compared


@pytest.mark.slow
def test_engines_take_the_same_steps(data: Path, tmp_path: Path) -> None:
    names = ["ddp", "zero2", "zero3"]
    paths = [opened(tmp_path / name, data, ENGINES[name]) for name in names]
    want, *others = on_processes(2, _begun_equal, paths)[0]
    for name, got in zip(names[1:], others, strict=True):
        found = differences(got, want)
        assert max(found.values()) <= 1e-5, (name, found)


def _begun_equal(paths: list[Path]) -> list[dict[str, Tensor]] | None:
    results = [gathered(train(begin(path), steps=2)) for path in paths]
    return results if rank() == 0 else None


@pytest.mark.slow
def test_labels_go_with_their_images(tmp_path: Path) -> None:
    """With classes, one process and two under ZeRO 2 take the same steps."""
    labelled = labelled_set(tmp_path / "labelled")
    results = []
    for count, engine in ((1, "ddp"), (2, "zero2")):
        path = opened(tmp_path / engine, labelled, "model.conditional=true", ENGINES[engine])
        results.append(on_processes(count, _begun_equal, [path])[0][0])
    assert results[0]["decoder.entry.weight"].shape == (6 * 4 * 4, 8 + 3)
    found = differences(*results)
    assert max(found.values()) <= 1e-5, found


# What moves statistics, and what does not.


def parts(trainer: Trainer, x: Tensor) -> list[Any]:
    step = next(iter(trainer.schedule.steps(0)))
    trainer.players.prepare(Segment(8, False, warming_up=False))
    return [(x, Cond(Stage(8)), trainer.iteration.draw(step, 0, len(x)))]


@pytest.mark.parametrize("track", ["real", "all"])
def test_a_step_moves_statistics_by_those_of_its_passes(data: Path, tmp_path: Path, track: str) -> None:
    trainer = begin(tmp_path / "run", settings(data, track=track))
    players, fine = trainer.players, torch.ones((), dtype=torch.bool)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    stem = players.encoder.blocks["8"]
    maps = F.conv2d(x, stem.conv.weight, padding=2).detach()
    inputs = parts(trainer, x)
    update = players.encoder_engine.update(inputs, 0.0, fine)
    (turn,) = update.turns
    passes = {name: len(found) for name, found in turn.statistics.items()}
    own, others = ({n: k for n, k in passes.items() if n.startswith(p)} for p in ("player.", "partner."))
    if track == "real":
        assert set(own.values()) == {1} and not others
        torch.testing.assert_close(stem.norm.running_mean, 0.1 * maps.mean((0, 2, 3)))
        torch.testing.assert_close(stem.norm.running_var, 0.9 + 0.1 * maps.var((0, 2, 3)))
    else:
        assert set(own.values()) == {3} and set(others.values()) == {4}
        first, last = turn.statistics["player.blocks.8.norm"][[0, -1]]
        torch.testing.assert_close(first, torch.stack((maps.mean((0, 2, 3)), maps.var((0, 2, 3)))))
        mean = torch.zeros(6)
        for one in turn.statistics["player.blocks.8.norm"]:
            mean = 0.9 * mean + 0.1 * one[0]
        torch.testing.assert_close(stem.norm.running_mean, mean)
        assert not torch.allclose(first, last)
    crossed = [(one, turn.crossing, cond, draws) for one, cond, draws in inputs]
    update = players.decoder_engine.update(crossed, 0.0, fine)
    passes = {name: len(found) for name, found in update.turns[0].statistics.items()}
    own, others = ({n: k for n, k in passes.items() if n.startswith(p)} for p in ("player.", "partner."))
    assert (set(own.values()), set(others.values())) == (({1}, set()) if track == "real" else ({4}, {2}))


@pytest.mark.parametrize("why", ["not finite", "not allowed", "rehearsed", "previewed", "passed through"])
def test_nothing_else_moves_statistics(data: Path, tmp_path: Path, why: str) -> None:
    trainer = begin(tmp_path / "run", settings(data, "monitoring.grid=4", track="all"))
    players = trainer.players
    train(trainer, steps=1)
    before = statistics(trainer)
    assert any(t.any() for name, t in before.items() if "running_mean" in name)
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    if why == "not finite":
        x[0, 0, 0, 0] = torch.nan
    inputs = parts(trainer, x)
    if why == "previewed":
        preview(trainer.settings, players, trainer.data, Stage(8))
    elif why == "passed through":
        players.decoder(players.encoder(x, Cond(Stage(8)))[0], Cond(Stage(8)))
    elif why == "rehearsed":
        turns = players.encoder_engine.rehearse(inputs)
        players.decoder_engine.rehearse([(x, turns[0].crossing, *inputs[0][1:])])
    else:
        allowed = torch.tensor(why != "not allowed")
        update = players.encoder_engine.update(inputs, 0.01, allowed)
        decoded = [(x, update.turns[0].crossing, *inputs[0][1:])]
        assert not update.taken and not players.decoder_engine.update(decoded, 0.01, update.taken).taken
    assert_same(statistics(trainer), before)


def test_averages_average_them(data: Path, tmp_path: Path) -> None:
    trainer = begin(tmp_path / "run", settings(data))
    train(trainer, steps=1)
    found, share = statistics(trainer), trainer.players.encoder_ema.share(8)
    for name in found:
        if name.startswith("encoder."):
            start = 1.0 if "var" in name else 0.0
            torch.testing.assert_close(
                found[name.replace("encoder.", "encoder_ema.")], start + share * (found[name] - start)
            )


def test_recomputed_activations_change_no_bit(data: Path, tmp_path: Path) -> None:
    runs = [
        train(disturb(begin(tmp_path / value, settings(data, f"engine.checkpoint_activations={value}"))), steps=2)
        for value in ("false", "true")
    ]
    assert_same(*(snapshot(run.players.tensors()) for run in runs))


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_killed_and_continued_ends_with_the_same_bits(data: Path, tmp_path: Path, count: int) -> None:
    straight = opened(tmp_path / "straight", data)
    broken = opened(tmp_path / "broken", data, "checkpoint.every=24")
    want = on_processes(count, _to_the_end, straight, None)[0]
    on_processes(count, _to_the_end, broken, 4)
    assert CheckpointFolder(RunDirectory(broken).checkpoints).final(24).exists()
    assert_same(on_processes(count, _to_the_end, broken, None)[0], want)
    assert RunDirectory(broken).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()


def _to_the_end(path: Path, steps: int | None) -> dict[str, Tensor]:
    trainer = begin(path)
    if trainer.images == 0:
        disturb(trainer)
    return snapshot(train(trainer, steps=steps).players.tensors())


# What is refused.


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("engine.max_batch_per_rank=4", "engine.max_batch_per_rank divides batches, whose images residual normalises"),
        ("engine.max_batch_per_rank=auto", "engine.max_batch_per_rank divides batches"),
        ("engine.compile=true", "engine.compile makes graphs without communication"),
    ],
)
def test_parts_and_graphs_are_refused(data: Path, assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(data, assignment)
