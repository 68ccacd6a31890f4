"""Operations, bytes and memory of a whole step, counted by tracing it: the same numbers on every machine.

A step consists of both updates, with their guarded optimizer steps and checks, and of the averages. It is that of one
process alone under DDP, not its first one (the optimizer's moments exist), with torch.compile or without it.
"""

import warnings
from collections import Counter
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines import Engine, make_engine
from sivae_dist.engines.settings import ENGINES, USUAL_ENGINE, EngineSettings
from sivae_dist.models import Decoder, Encoder
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.forms import Form
from sivae_dist.objectives import DecoderInput, DecoderTurn, EncoderInput, EncoderTurn
from sivae_dist.train.kernel_counts import kernels_counted
from sivae_dist.train.memory import form_on
from sivae_dist.train.sizes import at, traced_batch
from sivae_dist.train.tracing import BatchTracker, FakeMode, TracedSettings, Tracker, fake_networks, micro_batch
from sivae_dist.train.work import Work


class Counts(NamedTuple):
    """Counts of one step."""

    flops: int
    """Floating-point operations of matrix products and convolutions, 2 for a product and its sum."""
    operations: int
    """Operations of torch that compute or copy, custom ones included; of compiled objectives, kernels."""
    traffic: int
    """Bytes that these operations read and write, weights and the optimizer's state included (tracing.py)."""
    peak: int
    """The most bytes that the step holds beyond those that it begins with: activations, gradients and temporary
    results."""


class TracedStep(NamedTuple):
    """Counts of one step, and the work that they consist of."""

    counts: Counts
    work: Counter[Work]
    """How often there is work of each kind and size."""


def count_step(
    settings: RunSettings,
    resolution: int,
    batch: int,
    *,
    share: int | None = None,
    blending: bool = False,
    warming_up: bool = False,
    compiled: bool = False,
) -> Counts:
    """Counts a step at `resolution` px, in its transition or not, that takes `batch` images at once.

    `share`: images of the whole step, a multiple of `batch`; one micro-batch alone when None. `compiled`: with both
    objectives as engine.compile makes them on a CPU (kernel_counts.py), whatever the settings say.
    """
    parts = (share or batch) // batch
    if compiled:
        tracker = Tracker()
        _take(settings, "compiled", resolution, blending, batch, warming_up, parts, tracker)
        return Counts(tracker.flops, tracker.operations, tracker.traffic, tracker.peak)
    return trace_step(settings, resolution, batch, parts, blending=blending, warming_up=warming_up).counts


def trace_step(
    settings: RunSettings,
    resolution: int,
    batch: int,
    parts: int = 1,
    *,
    blending: bool = False,
    warming_up: bool = False,
) -> TracedStep:
    """A step of `parts` micro-batches of `batch` images each; one trace serves all batches, and two all `parts`.

    The peak is that of two parts where there are more: latents of the others, some values an image, are left out.
    Layers have this process's form, but those that torch.compile makes are traced as `fused`.
    """
    key = (TracedSettings(settings, form_on("cpu")), resolution, blending, traced_batch(batch), warming_up)
    one = _trace(*key, 1)
    two = one if parts == 1 else _trace(*key, 2)

    def of_all_parts(first: int, second: int) -> int:
        return at(first + (parts - 1) * (second - first), batch)  # each further one adds what the second does

    work: Counter[Work] = Counter()
    for each, times in two.work.items():
        work[each.at(batch)] += of_all_parts(one.work[each], times)
    counts = Counts(
        of_all_parts(one.flops, two.flops),
        of_all_parts(one.operations, two.operations),
        of_all_parts(one.traffic, two.traffic),
        two.peaks.at(batch),
    )
    return TracedStep(counts, work)


@lru_cache(maxsize=256)
def _trace(
    traced: TracedSettings, resolution: int, blending: bool, batch: int, warming_up: bool, parts: int
) -> BatchTracker:
    """Traces a step; what is counted are polynomials in the batch (sizes.py)."""
    tracker = BatchTracker()
    _take(traced.settings, traced.form, resolution, blending, batch, warming_up, parts, tracker)
    return tracker


def _take(
    settings: RunSettings,
    form: Form,
    resolution: int,
    blending: bool,
    batch: int,
    warming_up: bool,
    parts: int,
    tracker: Tracker,
) -> None:
    """Takes a step inside of the tracker, with tensors that have shapes but no values."""
    engine = _usual(settings.engine, form)
    settings = settings.model_copy(update={"engine": engine})
    common = (engine, settings.optimizer, settings.ema)
    with FakeMode(), torch.random.fork_rng(devices=[]), forms.using(form), warnings.catch_warnings():
        # Copying a network asks for the addresses of its weights; that there are none does no harm.
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        encoder, decoder = fake_networks(settings)
        first: Engine[Encoder, EncoderInput, EncoderTurn] = make_engine(*common, "encoder", encoder, decoder)
        second: Engine[Decoder, DecoderInput, DecoderTurn] = make_engine(*common, "decoder", decoder, encoder)
        objectives = settings.objective.build(
            encoder, decoder, resolution, settings.model.dimensions, warming_up=warming_up, amp=engine.amp
        )
        first.prepare(objectives[0], encoder.parts_in_use(resolution, blending))
        second.prepare(objectives[1], decoder.parts_in_use(resolution, blending))
        for player in (first, second):
            _make_moments(player)
        x, cond, draws = micro_batch(settings, decoder, resolution, blending, batch)
        allowed = torch.ones((), dtype=torch.bool)
        with tracker, kernels_counted(tracker, *objectives) if engine.compile else nullcontext():
            one = first.update([(x, cond, draws)] * parts, 0.0, allowed)
            second.update([(x, turn.crossing, cond, draws) for turn in one.turns], 0.0, one.taken)
            first.average(parts)
            second.average(parts)


def _usual(engine: EngineSettings, form: Form) -> EngineSettings:
    """The usual engine with the settings that all have."""
    common = engine.model_dump(include={*EngineSettings.model_fields} - {"kernels"})
    return ENGINES[USUAL_ENGINE].model_validate(common | {"compile": form == "compiled"})


def _make_moments(player: Engine[Any, Any, Any]) -> None:
    """Allocates the optimizer's moments, as a first step does."""
    for parameter in player.parameters:
        parameter.grad = torch.zeros_like(parameter)
    player.optimizer.step()
    player.forget_gradients()
