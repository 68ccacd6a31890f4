"""Estimates of a step's memory against what real steps allocate."""

from pathlib import Path

import pytest
import torch

from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.models import Cond, Stage
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.forms import Form
from sivae_dist.objectives import Draws
from sivae_dist.step.randomness import draw
from sivae_dist.step.schedule import Segment
from sivae_dist.train.memory import estimate
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import Tracker
from tests.helpers import CPU, assert_same, snapshot, tiny_settings

INTRO = "objective={name: intro, margin: 4}"
VAE = "objective={name: vae}"


def settings(*assignments: str) -> RunSettings:
    """A network wide enough for activations to outweigh what else a step allocates."""
    wide = ("model.resolution=16", "model.base_width=32", "model.max_width=32", "schedule.images=8")
    return tiny_settings(Path("none"), *wide, *assignments)


def of_step(settings: RunSettings, blending: bool, parts: int, batch: int, lr: float = 0.0) -> tuple[int, Players]:
    """Bytes at the peak of a real second step beyond what was there before it, and who took it."""
    players = Players(settings, CPU)
    players.prepare(Segment(16, blending, warming_up=False))
    cond = Cond(Stage(16, torch.tensor(0.5) if blending else None))
    draws: list[Draws] = [
        draw(
            0, part * batch, batch, latent=8, noise_size=players.decoder.noise_size(16), layers=6,
            mixing=getattr(settings.objective, "style_mixing", 0.0), device=CPU, dtype=settings.engine.dtype,
        )
        for part in range(parts)
    ]  # fmt: skip
    xs = [torch.full((batch, 3, 16, 16), 0.5, dtype=settings.engine.dtype) for _ in range(parts)]
    fine = torch.ones((), dtype=torch.bool)
    peak = 0
    for _ in range(2):  # moments are made in the first
        with Tracker() as tracker:
            encoder = players.encoder_engine.update([(x, cond, d) for x, d in zip(xs, draws, strict=True)], lr, fine)
        peak = tracker.peak
        zs = [turn.crossing for turn in encoder.turns]
        with Tracker() as tracker:
            players.decoder_engine.update([(x, z, cond, d) for x, z, d in zip(xs, zs, draws, strict=True)], lr, fine)
        peak = max(peak, tracker.peak)
    return peak, players


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignments", "blending", "parts"),
    [
        ((), True, 2),
        (("engine.precision=bf16",), True, 1),
        (("engine.precision=fp64", "engine.channels_last=false"), False, 2),
        (("engine.checkpoint_activations=true",), True, 1),
        ((INTRO,), False, 1),
        ((VAE,), True, 2),
    ],
)
def test_what_a_real_step_allocates(assignments: tuple[str, ...], blending: bool, parts: int) -> None:
    run = settings(*assignments)
    found = estimate(run, 16, blending, batch=8, processes=1, share=8 * parts, device="cpu")
    peak, players = of_step(run, blending, parts, batch=8)
    assert found.activations + found.gradients == pytest.approx(peak, rel=0.03)
    assert players.full_size == found.weights + found.optimizer


@pytest.mark.slow
def test_activations_of_ffhq256_are_those_that_were_traced_on_their_own() -> None:
    """2352 MB an image and 431 in fp32, saved, as the layers are written; 28 passes are 1.58 TFLOP."""
    run = load_config("ffhq256")
    with forms.using("plain"):
        one, two = (estimate(run, 256, False, batch, 1) for batch in (1, 2))
    image = two.activations - one.activations
    assert 2352e6 <= image <= 1.05 * 2352e6
    assert one.activations - image <= 431e6
    assert one.flops == pytest.approx(1.58e12, rel=0.005)
    assert one.weights + one.optimizer == pytest.approx(863e6, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["fused", "native"])
@pytest.mark.parametrize(("precision", "activations", "flops"), [("fp32", 957e6, 1.036e12), ("bf16", 493e6, 1.055e12)])
def test_layers_save_and_compute_no_more_than_they_have(
    form: Form, precision: str, activations: float, flops: float
) -> None:
    run = load_config("ffhq256", [f"engine.precision={precision}"])
    with forms.using(form):
        found = estimate(run, 256, False, 1, 1, device="cpu")
    assert found.activations <= 1.02 * activations
    assert found.flops <= 1.02 * flops


@pytest.mark.slow
@pytest.mark.parametrize(("form", "share"), [("plain", 0.5), ("fused", 0.75)])
def test_recomputed_activations_take_less_for_at_most_35_percent_more_work(form: Form, share: float) -> None:
    with forms.using(form):
        saved, again = (
            estimate(load_config("ffhq256", [f"engine.checkpoint_activations={value}"]), 128, True, 4, 1)
            for value in ("false", "true")
        )
    assert again.activations < share * saved.activations
    assert saved.flops < again.flops <= 1.35 * saved.flops


def test_what_engines_divide_falls_with_the_number_of_processes() -> None:
    state = {}
    for engine in ("name: ddp", *(f"name: zero, stage: {stage}" for stage in range(4))):
        run = settings(f"engine={{{engine}}}")
        state[engine[-1]] = [estimate(run, 16, False, 4, processes) for processes in (2, 4)]
    ddp, zero1, zero2, zero3 = state["p"], state["1"], state["2"], state["3"]
    assert ddp[0].state == ddp[1].state
    assert ddp[0].gradients > estimate(settings(), 16, False, 4, 1).gradients == 0
    assert zero1[0].optimizer == pytest.approx(2 * zero1[1].optimizer, abs=4)
    assert zero2[1].gradients < zero2[0].gradients
    assert zero3[1].weights < zero3[0].weights <= zero1[0].weights == ddp[0].weights
    assert {each[0].activations for each in state.values()} == {ddp[0].activations}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_change_no_bit(precision: str) -> None:
    results = []
    for value in ("false", "true"):
        run = settings(f"engine.checkpoint_activations={value}", f"engine.precision={precision}")
        players = of_step(run, blending=True, parts=2, batch=2, lr=0.01)[1]
        results.append(snapshot(players.tensors()))
    assert_same(*results)
