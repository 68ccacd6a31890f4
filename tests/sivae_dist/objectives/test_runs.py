"""IntroVAE and the plain VAE where a run meets them: settings, the dry run, processes, a resume, warnings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor
from typer.testing import CliRunner

from launch.cli import app
from sivae_dist.config.run_settings import load_config
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.objectives import IntroSettings
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import read_rows
from sivae_dist.step.schedule import Schedule, ScheduleSettings
from tests.helpers import (
    CPU,
    assert_same,
    begin,
    disturb,
    on_processes,
    open_run,
    snapshot,
    train,
)

INTRO = "objective={name: intro, beta_neg: 0.5, margin: 1.5, style_mixing: 0.5, warmup: 8}"
VAE = "objective={name: vae}"
BOTH = pytest.mark.parametrize("objective", [INTRO, VAE], ids=["intro", "vae"])


# Settings.


def refusal(*assignments: str) -> str:
    with pytest.raises(ValueError) as caught:
        load_config("demo", list(assignments))
    (line,) = str(caught.value).splitlines()
    return line


def test_an_objective_is_given_as_a_whole() -> None:
    assert load_config("demo", ["objective={name: vae}"]).objective.name == "vae"
    objective = load_config("demo", ["objective={name: intro, margin: {4: 1, 8: 4, 16: 12, 32: 24}}"]).objective
    assert objective.name == "intro"
    assert objective.weights(16, 3072).margin == 12 and objective.weights(16, 3072).scale == 1 / 3072


@pytest.mark.parametrize(
    ("assignments", "words"),
    [
        (["objective.name=intro"], ["intro has no gamma_r or stop_gradient;", "'objective={name: intro, ...}'"]),
        (["objective.name=vae"], ["vae has no beta_neg or gamma_r or", "'objective={name: vae, ...}'"]),
        (["objective={name: intro}"], ["objective.margin is not set"]),
        (["objective={name: intro, margin: {4: 1}}"], ["objective.margin has no value for 8 px; it has [4]"]),
        (["objective={name: intro, margin: 9, hinge: soft}"], ["objective.hinge: 'soft' is not one of: image, batch"]),
        (["objective={name: intro, margin: 9, beta_ngg: 1}"], ["objective.beta_ngg; did you mean objective.beta_neg?"]),
        (["objective={name: vae, beta_cl: 1}"], ["objective.beta_cl; did you mean objective.beta_kl?"]),
    ],
)  # fmt: skip
def test_refusals(assignments: list[str], words: list[str]) -> None:
    line = refusal(*assignments)
    assert line.startswith(f"{assignments[0]}: ")
    assert all(word in line for word in words), line


def dry_run(data: Path, tmp_path: Path, objective: str) -> str:
    arguments = [
        "train", "tiny", "model.resolution=8", "model.base_width=4", "model.max_width=8", "schedule.images=16",
        "schedule.batch=8", objective, "--data", str(data), "--run-dir", str(tmp_path / "run"), "--dry-run",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_dry_run_shows_the_margin(data: Path, tmp_path: Path) -> None:
    text = dry_run(data, tmp_path, "objective={name: intro, beta_neg: 0.5, margin: {4: 3, 8: 7.5}, warmup: 8}")
    lines = [line.split() for line in text.splitlines()]
    assert [line[-1] for line in lines if line[:1] == ["px"]] == ["m"]
    assert [line[-2:] for line in lines if line[:1] in (["4"], ["8"])] == [["1/1/0.5", "3"], ["1/1/0.5", "7.5"]]
    assert (
        "32 images in 4 steps, 8 images of warm-up" in text and "m: KL(fake) in nats" in text and "resting" not in text
    )


def test_the_dry_run_of_a_plain_vae(data: Path, tmp_path: Path) -> None:
    text = dry_run(data, tmp_path, VAE)
    lines = [line.split() for line in text.splitlines()]
    assert [line[-1] for line in lines if line[:1] in (["4"], ["8"])] == ["1/1", "1/1"]
    assert "resting" not in text and "m: KL" not in text


# Runs.


def _run(path: Path, steps: int | None = None, disturbed: bool = False) -> tuple[int, dict[str, Tensor]]:
    """Trains on from where the run stands; the images seen, and all tensors."""
    trainer = begin(path)
    if disturbed:
        disturb(trainer)
    train(trainer, steps=steps)
    return trainer.images, snapshot(trainer.players.tensors())


def weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if "_optim." not in name}


@BOTH
def test_processes_and_parts_of_a_batch_change_nothing(data: Path, tmp_path: Path, objective: str) -> None:
    settings = ("engine.precision=fp64", "optimizer.eps=1e-6", objective)
    whole, parts, two = (tmp_path / name for name in ("whole", "parts", "two"))
    want = weights(_run(open_run(whole, data, *settings), disturbed=True)[1])
    results = [_run(open_run(parts, data, *settings, "engine.max_batch_per_rank=3"), disturbed=True)]
    results += on_processes(2, _run, open_run(two, data, *settings), None, True)
    for images, tensors in results:
        assert images == 48
        for name, tensor in weights(tensors).items():
            assert (tensor - want[name]).norm() <= 1e-9 * (want[name].norm() + 1e-3), name
    if objective == INTRO:
        rows = [row for row in read_rows(RunDirectory(whole).metrics) if "hinge/fake" in row]
        assert len(rows) == 5  # of 6 steps, the first of which is warm-up
        assert any(row["hinge/fake"] > 0.1 for row in rows)
        assert any(row["hinge/fake"] > 1.5 - row["kl/fake"] + 0.1 for row in rows)  # some images are past the margin


@pytest.mark.slow
@BOTH
def test_a_run_killed_and_continued_ends_with_the_same_bits(data: Path, tmp_path: Path, objective: str) -> None:
    """On two processes; killed in the first transition, after a checkpoint at the end of the first phase."""
    straight = open_run(tmp_path / "straight", data, objective)
    killed = open_run(tmp_path / "killed", data, objective, "checkpoint.every=16")
    want = on_processes(2, _run, straight)[0]
    assert on_processes(2, _run, killed, 3)[0][0] == 24
    got = on_processes(2, _run, killed)[0]
    assert got[0] == want[0] == 48
    assert_same(got[1], want[1])
    assert RunDirectory(killed).metrics.read_bytes() == RunDirectory(straight).metrics.read_bytes()


# Warnings.


def warnings(path: Path, capsys: pytest.CaptureFixture[str], *rows: tuple[float, float, float, float]) -> list[str]:
    """What a monitor warns of when told KL(real), KL(fake), hinge/rec and hinge/fake, a row every step."""
    path.mkdir()
    schedule = Schedule(ScheduleSettings(images=5_000, batch=10), [4], 100)
    monitor = Monitor(RunDirectory(path), IntroSettings(margin=40), schedule, 0, {}, speaks=True)
    loader: Any = SimpleNamespace(wait_seconds=0.0, speed=dict)
    for step, (real, fake, hinge_rec, hinge_fake) in zip(schedule.steps(0), rows, strict=False):
        terms = {"kl/real": real, "kl/fake": fake, "hinge/rec": hinge_rec, "hinge/fake": hinge_fake}
        monitor.scalars(step, {"reconstruction/per_value": 0.25} | terms, loader, 0, CPU)
    monitor.close()
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine, below, beyond = (30.0, 35.0, 2.0, 1.0), (30.0, 20.0, 2.0, 9.0), (30.0, 45.0, 0.0, 0.0)
    (line,) = warnings(tmp_path / "below", capsys, *[below] * 50)
    assert "KL(fake) 20.0" in line and "KL(real) 30.0" in line and "objective.margin" in line
    assert "exponent" not in line and "beta_neg" not in line
    (line,) = warnings(tmp_path / "beyond", capsys, *[beyond] * 50)
    assert "KL(fake) 45.0" in line and "beyond objective.margin" in line
    assert warnings(tmp_path / "fine", capsys, *[fine] * 50) == []
    assert warnings(tmp_path / "early", capsys, *[beyond] * 19, fine, *[below] * 19, fine) == []
    assert warnings(tmp_path / "one kind", capsys, *[(30.0, 45.0, 1.0, 0.0)] * 50) == []
