"""The training loop: Algorithm 2 of the appendix over a growing pair of networks."""

import math
from collections.abc import Iterator
from time import perf_counter

import torch
from torch import Tensor

from data_pipelines.loader import Loader, Request
from data_pipelines.manifest import Manifest
from sivae_dist.checkpoint import Checkpoint, CheckpointManager
from sivae_dist.config import RunSettings
from sivae_dist.models import Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.monitoring.preview import preview
from sivae_dist.objectives import Draws
from sivae_dist.players import Players
from sivae_dist.processes import mean_over_processes, on_first, rank, world_size
from sivae_dist.randomness import draw
from sivae_dist.run import RunDirectory
from sivae_dist.schedule import Schedule, Segment, Step, crosses


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite. No step was taken with it, nor any since."""


class Trainer:
    """One process of a run. All processes build the same one; what they do not share is their slice of every batch."""

    def __init__(self, settings: RunSettings, run: RunDirectory, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.manifest = Manifest.load(settings.data.path)
        check_data(settings, self.manifest)
        self.schedule = make_schedule(settings, self.manifest)
        self.schedule.check_world_size(world_size())
        self.players = Players(settings, device)
        self.checkpoints = CheckpointManager(run.checkpoints, settings.checkpoint)
        self.images = 0
        self._segment: Segment | None = None
        self._phase: int | None = None
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        resumed = self._resume()
        self.monitor = Monitor(run, self.schedule, self.images, speaks=rank() == 0)
        self.monitor.say(f"continuing from {resumed.path}" if resumed else f"starting {run.path}")
        if self.images == 0:
            self.monitor.text("config", f"```\n{settings.to_yaml()}\n```", 0)
        self.loader = Loader(settings.data, self.manifest, settings.seed, device)

    def train(self) -> None:
        """From where the run stands to its end. NonFiniteError or SampleError end it; what is saved stays valid."""
        every = self.settings.monitoring
        batches = self.loader.batches(self._requests())
        for step, x in zip(self.schedule.steps(self.images), batches, strict=True):
            last = step.end >= self.schedule.total
            told = last or crosses(step, every.scalars_every)
            saved = last or crosses(step, self.settings.checkpoint.every)
            self._enter(step)
            terms = self._train_step(step, x)
            if self.device.type == "cpu" or told or saved:  # elsewhere it would wait for the device every step
                self._check_finite(step, terms)
            self.players.average(step.batch)
            self.images = step.end
            if told:
                self._log(step, terms)
            if crosses(step, every.images_every) or (last and every.images_every):
                self._log_images(step)
            if saved:
                self._save(step)
            self.monitor.step(step)

    def _train_step(self, step: Step, x: Tensor) -> dict[str, Tensor]:
        """Algorithm 2, lines 4 to 28, on this process's slice x of the batch; returns its terms."""
        engine, players = self.settings.engine, self.players
        part = x.shape[0] // engine.parts(x.shape[0])
        first = step.position + rank() * x.shape[0]
        stage = self._stage(step)
        x = x.to(engine.dtype)
        if engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        xs = blend_real(x, stage.blend).split(part)
        draws = [self._draw(step, first + k * part, part) for k in range(len(xs))]

        encoded, encoder_norm = players.encoder_engine.update(
            [(x, stage.blend, d) for x, d in zip(xs, draws, strict=True)], step.lr_encoder, self._finite
        )
        self._finite = self._finite & torch.isfinite(encoder_norm)
        zs = [z for _, z in encoded]
        decoded, decoder_norm = players.decoder_engine.update(
            [(x, z, stage.blend, d) for x, z, d in zip(xs, zs, draws, strict=True)], step.lr_decoder, self._finite
        )
        self._finite = self._finite & torch.isfinite(decoder_norm)

        terms = [of_encoder | of_decoder for (of_encoder, _), (of_decoder,) in zip(encoded, decoded, strict=True)]
        means = {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}
        return means | {"gradient/encoder": encoder_norm, "gradient/decoder": decoder_norm}

    def _stage(self, step: Step) -> Stage:
        blend = torch.full((), step.blend, device=self.device) if step.segment.blending else None
        return Stage(step.phase.resolution, blend)

    def _draw(self, step: Step, first: int, count: int) -> Draws:
        decoder, resolution = self.players.decoder, step.phase.resolution
        return draw(
            self.settings.seed,
            first,
            count,
            latent=self.settings.model.latent,
            noise_size=decoder.noise_size(resolution),
            layers=decoder.layer_count(resolution),
            mixing=0.0 if step.segment.warming_up else self.settings.objective.style_mixing,
            device=self.device,
            dtype=self.settings.engine.dtype,
        )

    def _requests(self) -> Iterator[Request]:
        """This process's slice of every batch to come."""
        for step in self.schedule.steps(self.images):
            share = step.batch // world_size()
            yield Request(step.position + rank() * share, share, step.phase.resolution)

    def _enter(self, step: Step) -> None:
        """Prepares both players whenever what is static in a step changes."""
        if self._phase not in (None, step.phase.index) and self.settings.schedule.reset_optimizer:
            self.players.reset_optimizers()
        self._phase = step.phase.index
        if step.segment != self._segment:
            self._segment = step.segment
            self.players.prepare(step.segment)

    def _check_finite(self, step: Step, terms: dict[str, Tensor]) -> None:
        """Waits for the device. A gradient holds what any process found, so all processes agree."""
        if not self._finite:
            bad = [name for name, value in terms.items() if not math.isfinite(value)]
            raise NonFiniteError(
                f"{bad[0] if bad else 'a gradient'} was not finite at {step.phase.resolution} px, before "
                f"{step.end:,} images; it has not reached the weights. Try a larger objective.beta_neg, "
                "a smaller schedule.lr_encoder and lr_decoder, or optimizer.clip=1"
            )

    def _log(self, step: Step, terms: dict[str, Tensor]) -> None:
        values = mean_over_processes(torch.stack([value.double() for value in terms.values()])).tolist()
        self.monitor.scalars(step, dict(zip(terms, values, strict=True)), self.loader, self.device)

    def _log_images(self, step: Step) -> None:
        if self.monitor.speaks:
            self.monitor.images(step, preview(self.settings, self.players, self.loader, self._stage(step)))

    def _save(self, step: Step) -> None:
        start = perf_counter()
        self.monitor.sync()
        meta = {
            "phase": step.phase.index,
            "resolution": step.phase.resolution,
            "blending": step.segment.blending,
            "blend": step.blend,
            "seed": self.settings.seed,
            "data": self.manifest.digest,
        }
        self.checkpoints.save(step.end, self.players.tensors(), meta)
        self.monitor.checkpoint_written(step, perf_counter() - start)

    def _resume(self) -> Checkpoint | None:
        found = on_first(self.checkpoints.latest)
        if found is None:
            return None
        on_first(found.verify)
        if found.meta["data"] != self.manifest.digest:
            raise ValueError(f"{self.settings.data.path} is not the data set that this run was begun with")
        self.players.restore(found.load())
        self.images = found.images
        self._phase = found.meta["phase"]
        return found

    def close(self) -> None:
        self.loader.close()
        self.monitor.close()


def make_schedule(settings: RunSettings, manifest: Manifest) -> Schedule:
    return Schedule(settings.schedule, settings.model.resolutions, manifest.train, settings.objective.warmup)


def check_data(settings: RunSettings, manifest: Manifest) -> None:
    """ValueError when the data set cannot feed the model."""
    if manifest.channels != settings.model.channels:
        raise ValueError(f"{settings.data.path} has {manifest.channels} channels, the model {settings.model.channels}")
    missing = [r for r in settings.model.resolutions if r not in manifest.levels]
    if missing:
        raise ValueError(
            f"{settings.data.path} has no images of {missing[0]} px; prepare it with --resolution "
            f"{settings.model.resolution} or set model.resolution={manifest.resolution}"
        )
    if manifest.train < 1:
        raise ValueError(f"{settings.data.path} has no training samples")
