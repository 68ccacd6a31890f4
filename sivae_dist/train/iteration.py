"""One iteration of training: both players' updates on one process's slice of a batch."""

import torch
from torch import Tensor

from data_pipelines.dataset import Batch
from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models import Cond, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.monitoring.trace import Trace
from sivae_dist.objectives import Draws
from sivae_dist.process.processes import rank
from sivae_dist.step.guard import Guard
from sivae_dist.step.randomness import draw
from sivae_dist.step.schedule import Step
from sivae_dist.train.players import Players


class Iteration:
    """Algorithm 2, lines 4 to 28. The players are prepared for the step's segment, and averaged after it."""

    def __init__(
        self, settings: RunSettings, players: Players, guard: Guard, device: torch.device, trace: Trace | None = None
    ) -> None:
        self.settings = settings
        self.engine = settings.engine
        """The engine's settings, with micro-batches that fit once training has begun."""
        self.players = players
        self.guard = guard
        self.device = device
        self.trace = trace

    def take(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        """Updates both players; returns the terms and the gradients' norms, 0-dimensional, by their logged names.

        What is not finite is noted by the guard; `Guard.check` raises it.
        """
        engine, players, model, stage = self.engine, self.players, self.settings.model, self.stage(step)
        share = batch.x.shape[0]
        part = share // engine.parts(share, step.phase.resolution)
        first = step.position + rank() * share
        x, extra = self._placed(batch.x), {name: self._placed(batch.extra[name]) for name in model.inputs}
        blended = {name: blend_real(one, stage.blend) for name, one in extra.items()}
        cond = Cond(stage, batch.y if model.classes else None, extra=blended)
        xs = blend_real(x, stage.blend).split(part)
        draws = [self.draw(step, first + k * part, part) for k in range(len(xs))]

        if self.trace is not None:
            for k, drawn in enumerate(draws):
                mine = slice(k * part, (k + 1) * part)
                inputs = {name: one[mine] for name, one in extra.items()}
                self.trace.write(first + k * part, x[mine], drawn, inputs)

        parts = list(zip(xs, cond.split(part, len(xs)), draws, strict=True))
        encoder = players.encoder_engine.update(parts, step.lr_encoder, self.guard.allowed())
        crossed = [(x, turn.crossing, c, d) for (x, c, d), turn in zip(parts, encoder.turns, strict=True)]
        decoder = players.decoder_engine.update(crossed, step.lr_decoder, encoder.taken)

        terms = [a.terms | b.terms for a, b in zip(encoder.turns, decoder.turns, strict=True)]
        means = {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}
        norms = {"gradient/encoder": encoder.norm, "gradient/decoder": decoder.norm}
        self.guard.note(means, {"encoder": encoder.sound, "decoder": decoder.sound}, norms, decoder.taken)
        return means | norms

    def _placed(self, x: Tensor) -> Tensor:
        """Samples in the run's type and memory format."""
        return x.to(self.engine.dtype, memory_format=self.engine.image_format(x))

    def stage(self, step: Step) -> Stage:
        blend = torch.full((), step.blend, device=self.device) if step.segment.blending else None
        return Stage(step.phase.resolution, blend)

    def draw(self, step: Step, first: int, count: int) -> Draws:
        """Draws all that is random at `count` positions from `first` on, at the step's resolution."""
        decoder, resolution = self.players.decoder, step.phase.resolution
        return draw(
            self.settings.seed,
            first,
            count,
            latent=self.settings.model.latent,
            noise_size=decoder.noise_size(resolution),
            layers=decoder.layer_count(resolution),
            mixing=0.0 if step.segment.warming_up else self.settings.objective.mixing_share,
            device=self.device,
            dtype=self.settings.engine.dtype,
        )
