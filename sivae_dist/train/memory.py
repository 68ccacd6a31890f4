"""Memory of a step, found by tracing both of its updates with tensors that have shapes but no values.

Needs no GPU and hardly any memory: a step of the largest model is traced in seconds on a laptop.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.engines.settings import BUFFERS
from sivae_dist.models import Decoder, Encoder
from sivae_dist.models.layers import forms
from sivae_dist.models.layers.batch_norm import Over
from sivae_dist.models.layers.forms import Form
from sivae_dist.objectives import DecoderTurn, EncoderTurn
from sivae_dist.train.sizes import Peak, at, traced_batch
from sivae_dist.train.tracing import BatchTracker, FakeMode, TracedSettings, fake_networks, micro_batch

_OVERHEAD = {"cuda": 1_000_000_000, "cpu": 800_000_000}
"""Bytes of a process besides tensors: on a GPU the context, NCCL and workspaces, on a CPU interpreter and libraries."""


class Estimate(NamedTuple):
    """Bytes of one process at the peak of a step, by what they are for, and the step's work."""

    weights: int
    """Of both networks and their averages, and of the distance, if it has any."""
    optimizer: int
    """Adam's moments."""
    gradients: int
    """What is held from one micro-batch or step to the next."""
    activations: int
    """The most that forward and backward of one micro-batch hold at once, in the greater of both updates."""
    inputs: int
    """Images and draws of this process's whole share of the batch."""
    overhead: int
    """Of the process itself; a round figure, not traced."""
    flops: int
    """Floating-point operations of the step on this process: matrix products and convolutions, 2 for a product and
    its sum."""

    @property
    def state(self) -> int:
        """Bytes that do not depend on the batch."""
        return self.weights + self.optimizer + self.gradients

    @property
    def peak(self) -> int:
        """All bytes together."""
        return self.state + self.activations + self.inputs + self.overhead


def estimate(
    settings: RunSettings,
    resolution: int,
    blending: bool,
    batch: int,
    processes: int,
    *,
    share: int | None = None,
    warming_up: bool = False,
    device: str = "cuda",
) -> Estimate:
    """Memory of a step at `resolution` px, in its transition or not, of a process that takes `batch` images at once.

    `share`: images of the process in the whole step; its micro-batch alone when None. `device`: cpu or cuda. What
    torch.compile changes is not counted.
    """
    share = share or batch
    engine = settings.engine
    kept = processes > 1 or share > batch
    traced = TracedSettings(settings, form_on(device))
    activations, flops, *_, frozen = _trace(traced, resolution, blending, traced_batch(batch), warming_up, kept)
    networks = meta_networks(settings)
    whole = sum(map(_bytes, networks))
    trained = sum(_unique_bytes(_trained(n, settings.model.resolutions, resolution)) for n in networks)
    updated = [_unique_bytes(n.parts_in_use(resolution, blending)) for n in networks]
    held = engine.held(whole, trained, updated, processes, kept)
    return Estimate(
        **held._replace(weights=held.weights + frozen)._asdict(),
        activations=activations.at(batch),
        inputs=share * _input_bytes(settings, networks[1], resolution),
        overhead=_OVERHEAD[device],
        flops=at(flops, batch) * (share // batch),
    )


def logged_terms(settings: RunSettings) -> set[str]:
    """Values that a row of metrics.jsonl has by name once the warm-up is over."""
    terms = _trace(TracedSettings(settings, "plain"), 4, False, 1, False, False)[2]
    keys = ("resolution", "blend", "batch", "lr_encoder", "lr_decoder")
    skipped = {"guard/skipped_steps"} if settings.guard.policy == "skip" else set()
    return {*terms, "gradient/encoder", "gradient/decoder", *(f"schedule/{key}" for key in keys), *skipped}


def sums_of_statistics(
    settings: RunSettings, resolution: int, *, blending: bool = False, warming_up: bool = False
) -> tuple[int, ...]:
    """Bytes of each sum over processes that batch normalization takes in a step, of both players, in order."""
    if not settings.model.batch_statistics:
        return ()
    traced = TracedSettings(settings, form_on("cpu"))
    return _trace(traced, resolution, blending, traced_batch(1), warming_up, False)[3]


def remedy(settings: RunSettings) -> str:
    """What to set where a step does not fit."""
    if not settings.model.batch_statistics:
        return "engine.max_batch_per_rank=auto"
    recompute = "" if settings.engine.checkpoint_activations else "engine.checkpoint_activations=true or "
    return f"{recompute}a smaller schedule.batch, whose images {settings.model.name} normalises together"


_GENEROUS = 200
"""Copies of its feature maps that an image surely does not need: Soft-IntroVAE has 73 in fp32."""


def surely_fits(settings: RunSettings, resolution: int, batch: int, share: int, room: int) -> bool:
    """Whether a step fits into `room` bytes so easily that there is no need to trace it."""
    networks = meta_networks(settings)
    activations = _GENEROUS * batch * feature_values(settings, resolution) * settings.engine.dtype.itemsize
    inputs = share * _input_bytes(settings, networks[1], resolution)
    return activations + inputs + 8 * sum(map(_bytes, networks)) + BUFFERS + _OVERHEAD["cuda"] <= room


def feature_values(settings: RunSettings, resolution: int) -> int:
    """A number to which the activations of one sample in a step are proportional."""
    model = settings.model
    return model.feature_values(resolution) + settings.objective.feature_values(model.shape(resolution))


def form_on(device: str) -> Form:
    """How layers are traced for a cpu or cuda device: as they are computed, compiled ones as the functions of `fused`
    that they consist of."""
    form = forms.current()
    return "fused" if form == "compiled" or (device == "cuda" and form == "native") else form


@lru_cache(maxsize=256)
def _trace(
    traced: TracedSettings, resolution: int, blending: bool, batch: int, warming_up: bool, kept: bool
) -> tuple[Peak, int, frozenset[str], tuple[int, ...], int]:
    """Traces one micro-batch: bytes at the peak beyond weights and `kept` gradients and operations, as polynomials in
    the batch (sizes.py), names of terms, bytes of sums over the statistics' processes, and of the distance's weights.
    """
    run = traced.settings
    sums: list[int] = []

    def summed(tensor: Tensor) -> Tensor:
        sums.append(tensor.nbytes)
        return tensor

    with FakeMode(), torch.random.fork_rng(devices=[]), forms.using(traced.form):
        networks = fake_networks(run)
        x, cond, draws = micro_batch(run, networks[1], resolution, blending, batch)
        objectives = run.objective.build(
            *networks, resolution, run.model.dimensions, warming_up=warming_up, amp=run.engine.amp
        )
        peak, flops = Peak(), 0
        names: set[str] = set()
        crossing: list[Tensor] = []
        for network, objective in zip(networks, objectives, strict=True):
            objective.over = Over(summed, 2) if run.model.batch_statistics else None
            for one in networks:
                one.requires_grad_(False)
            used = [p for part in network.parts_in_use(resolution, blending) for p in part.parameters()]
            for parameter in used:
                parameter.requires_grad_(True)
                parameter.grad = torch.zeros_like(parameter) if kept else None
            with BatchTracker() as tracker:
                turn: EncoderTurn | DecoderTurn = objective(x, *crossing, cond, draws)
                turn.loss.backward()
            crossing = [turn.crossing] if isinstance(turn, EncoderTurn) else []
            for parameter in used:
                parameter.grad = None
            peak.include(tracker.peaks)
            flops += tracker.flops
            names |= turn.terms.keys()
    return peak, flops, frozenset(names), tuple(sums), _bytes(objectives[0].distance)


def _input_bytes(settings: RunSettings, decoder: Decoder, resolution: int) -> int:
    """Bytes of one image of a share: its pixels and those of its further inputs, before and after blending, and its
    draws."""
    model = settings.model
    pixels = 2 * (1 + len(model.inputs)) * prod(model.shape(resolution))
    return (pixels + 4 * decoder.noise_size(resolution) + 5 * model.latent) * settings.engine.dtype.itemsize


def meta_networks(settings: RunSettings) -> tuple[Encoder, Decoder]:
    """Both, for their shapes and types."""
    networks = settings.model.shapes()
    for network in networks:
        network.to(settings.engine.dtype)
    return networks


def _trained(network: Encoder | Decoder, resolutions: list[int], resolution: int) -> Iterator[nn.Module]:
    """The parameters that have been trained by the end of a phase."""
    for below in resolutions:
        if below <= resolution:
            yield from network.parts_in_use(below, blending=False)


def _bytes(network: nn.Module) -> int:
    return _unique_bytes([network])


def _unique_bytes(modules: Iterable[nn.Module]) -> int:
    return sum(p.nbytes for p in {id(p): p for module in modules for p in module.parameters()}.values())
