"""Operations, bytes and memory of a whole step, counted by tracing it: the same numbers on every machine.

A step consists of both updates, with their guarded optimizer steps and checks, and of the averages. It is that of one
process alone under DDP, not its first one (the optimizer's moments exist), and without torch.compile.
"""

import warnings
from typing import Any, NamedTuple

import torch

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines import Engine, make_engine
from sivae_dist.engines.settings import ENGINES, USUAL_ENGINE, EngineSettings
from sivae_dist.models import Decoder, Encoder
from sivae_dist.objectives import DecoderInput, DecoderTurn, EncoderInput, EncoderTurn
from sivae_dist.train.tracing import FakeMode, Tracker, fake_networks, micro_batch


class Counts(NamedTuple):
    """Counts of one step."""

    flops: int
    """Floating-point operations of matrix products and convolutions, 2 for a product and its sum."""
    operations: int
    """Operations of torch that compute or copy, custom ones included."""
    traffic: int
    """Bytes that these operations read and write, weights and the optimizer's state included (tracing.py)."""
    peak: int
    """The most bytes that the step holds beyond those that it begins with: activations, gradients and temporary
    results."""


def count_step(
    settings: RunSettings,
    resolution: int,
    batch: int,
    *,
    share: int | None = None,
    blending: bool = False,
    warming_up: bool = False,
) -> Counts:
    """Counts a step at `resolution` px, in its transition or not, that takes `batch` images at once.

    `share`: images of the whole step, a multiple of `batch`; one micro-batch alone when None.
    """
    parts = (share or batch) // batch
    settings = settings.model_copy(update={"engine": _eager(settings.engine)})
    common = (settings.engine, settings.optimizer, settings.ema)
    with FakeMode(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Copying a network asks for the addresses of its weights; that there are none does no harm.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        encoder, decoder = fake_networks(settings)
        first: Engine[Encoder, EncoderInput, EncoderTurn] = make_engine(*common, "encoder", encoder, decoder)
        second: Engine[Decoder, DecoderInput, DecoderTurn] = make_engine(*common, "decoder", decoder, encoder)
        objectives = settings.objective.build(
            encoder, decoder, resolution, settings.model.dimensions, warming_up=warming_up, amp=settings.engine.amp
        )
        first.prepare(objectives[0], encoder.parts_in_use(resolution, blending))
        second.prepare(objectives[1], decoder.parts_in_use(resolution, blending))
        for player in (first, second):
            _make_moments(player)
        x, cond, draws = micro_batch(settings, decoder, resolution, blending, batch)
        allowed = torch.ones((), dtype=torch.bool)
        with Tracker() as tracker:
            one = first.update([(x, cond, draws)] * parts, 0.0, allowed)
            second.update([(x, turn.crossing, cond, draws) for turn in one.turns], 0.0, one.taken)
            first.average(parts * batch)
            second.average(parts * batch)
    return Counts(tracker.flops, tracker.operations, tracker.traffic, tracker.peak)


def _eager(engine: EngineSettings) -> EngineSettings:
    """The usual engine with the settings that all have, without torch.compile."""
    common = engine.model_dump(include={*EngineSettings.model_fields} - {"compile"})
    return ENGINES[USUAL_ENGINE].model_validate(common)


def _make_moments(player: Engine[Any, Any, Any]) -> None:
    """Allocates the optimizer's moments, as a first step does."""
    for parameter in player.parameters:
        parameter.grad = torch.zeros_like(parameter)
    player.optimizer.step()
    player.forget_gradients()
