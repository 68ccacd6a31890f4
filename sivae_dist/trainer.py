"""The training loop: Algorithm 2 of the appendix over a growing pair of networks."""

import math
from time import perf_counter

import torch
from torch import Tensor

from data_pipelines.loader import Loader, Request, to_images
from data_pipelines.manifest import Manifest
from sivae_dist import figures
from sivae_dist.checkpoint import Checkpoint, CheckpointManager
from sivae_dist.checkpoint.state import (
    network_tensors,
    optimizer_tensors,
    restore_network,
    restore_optimizer,
)
from sivae_dist.config import RunSettings
from sivae_dist.engines import DdpEngine
from sivae_dist.models import Stage, build
from sivae_dist.models.stage import blend_real
from sivae_dist.monitoring.monitor import Monitor
from sivae_dist.objectives import Draws
from sivae_dist.optimizer import Ema
from sivae_dist.processes import mean_over_processes, on_first, rank, world_size
from sivae_dist.randomness import draw, normals
from sivae_dist.run import RunDirectory
from sivae_dist.schedule import Schedule, Segment, Step, crosses


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite. The weights are as they were before that step."""


class Trainer:
    """One process of a run. All processes build the same one; what they do not share is their slice of every batch."""

    def __init__(self, settings: RunSettings, run: RunDirectory, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self.dtype = settings.engine.dtype
        self.manifest = Manifest.load(settings.data.path)
        check_data(settings, self.manifest)
        self.schedule = make_schedule(settings, self.manifest)
        self.schedule.check_world_size(world_size())
        layout = torch.channels_last if settings.engine.channels_last else torch.contiguous_format
        encoder, decoder = build(settings.model, settings.seed)
        self.encoder = encoder.to(device, self.dtype, memory_format=layout)  # type: ignore[call-overload]
        self.decoder = decoder.to(device, self.dtype, memory_format=layout)  # type: ignore[call-overload]
        self.encoder_ema = Ema(settings.ema, self.encoder)
        self.decoder_ema = Ema(settings.ema, self.decoder)
        self.players = {
            "encoder": DdpEngine(settings.engine, settings.optimizer, self.encoder, self.decoder),
            "decoder": DdpEngine(settings.engine, settings.optimizer, self.decoder, self.encoder),
        }
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
            self._enter(step)
            terms = self._train_step(step, x)
            self.images = step.end
            last = step.end >= self.schedule.total
            if self.device.type == "cpu" or last or crosses(step, every.scalars_every):
                self._check_finite(step, terms)
            if last or crosses(step, every.scalars_every):
                self._log(step, terms)
            if crosses(step, every.images_every) or (last and every.images_every):
                self._log_images(step)
            if last or crosses(step, self.settings.checkpoint.every):
                self._save(step, terms)
            self.monitor.step(step)

    def _train_step(self, step: Step, x: Tensor) -> dict[str, Tensor]:
        """Algorithm 2, lines 4 to 28, on this process's slice of the batch."""
        share = x.shape[0]
        parts = self.settings.engine.parts(share)
        x = x.to(self.dtype)
        if self.settings.engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        blend = torch.full((), step.blend, device=self.device) if step.segment.blending else None
        real = blend_real(x, blend).split(share // parts)
        draws = [self._draw(step, step.position + rank() * share + k * (share // parts), share // parts)
                 for k in range(parts)]  # fmt: skip
        outputs, encoder_norm = self.players["encoder"].update(
            [(x, blend, d) for x, d in zip(real, draws, strict=True)], step.lr_encoder
        )
        codes = [z for _, z in outputs]
        decoder_outputs, decoder_norm = self.players["decoder"].update(
            [(x, z, blend, d) for x, z, d in zip(real, codes, draws, strict=True)], step.lr_decoder
        )
        self.encoder_ema.update(self.encoder, step.batch)
        self.decoder_ema.update(self.decoder, step.batch)
        self._finite = self._finite & torch.isfinite(encoder_norm) & torch.isfinite(decoder_norm)
        terms = [e[0] | d[0] for e, d in zip(outputs, decoder_outputs, strict=True)]
        return {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]} | {
            "gradient/encoder": encoder_norm,
            "gradient/decoder": decoder_norm,
        }

    def _draw(self, step: Step, first: int, count: int) -> Draws:
        return draw(
            self.settings.seed,
            first,
            count,
            latent=self.settings.model.latent,
            noise_size=self.decoder.noise_size(step.phase.resolution),
            layers=self.decoder.layer_count(step.phase.resolution),
            mixing=0.0 if step.segment.warming_up else self.settings.objective.style_mixing,
            device=self.device,
            dtype=self.dtype,
        )

    def _requests(self) -> "list[Request] | map[Request]":
        """This process's slice of every batch to come."""

        def request(step: Step) -> Request:
            share = step.batch // world_size()
            return Request(step.position + rank() * share, share, step.phase.resolution)

        return map(request, self.schedule.steps(self.images))

    def _enter(self, step: Step) -> None:
        """Prepares both players whenever what is static in a step changes."""
        if self._phase not in (None, step.phase.index) and self.settings.schedule.reset_optimizer:
            for player in self.players.values():
                player.reset()
        self._phase = step.phase.index
        if step.segment == self._segment:
            return
        self._segment = segment = step.segment
        objectives = self.settings.objective.build(
            self.encoder,
            self.decoder,
            segment.resolution,
            self.settings.model.dimensions,
            warming_up=segment.warming_up,
            amp=self.settings.engine.amp,
        )
        for player, objective, network in zip(
            self.players.values(), objectives, (self.encoder, self.decoder), strict=True
        ):
            player.prepare(objective, network.parts_in_use(segment.resolution, segment.blending))

    def _check_finite(self, step: Step, terms: dict[str, Tensor]) -> None:
        """Waits for the device. A gradient holds what any process found, so all processes agree."""
        if not self._finite:
            bad = [name for name, value in terms.items() if not math.isfinite(value)]
            raise NonFiniteError(
                f"{bad[0] if bad else 'a gradient'} was not finite at {step.phase.resolution} px, before "
                f"{step.end:,} images; the weights were not touched. "
                "Try a larger objective.beta_neg, a smaller schedule.lr_encoder and lr_decoder, or optimizer.clip=1"
            )

    def _log(self, step: Step, terms: dict[str, Tensor]) -> None:
        values = mean_over_processes(torch.stack([value.double() for value in terms.values()])).tolist()
        self.monitor.scalars(step, dict(zip(terms, values, strict=True)), self.loader, self.device)

    @torch.no_grad()
    def _log_images(self, step: Step) -> None:
        if rank() != 0:
            return
        columns = self.settings.monitoring.grid
        count = min(columns * 2, self.manifest.samples)
        blend = torch.full((), step.blend, device=self.device) if step.segment.blending else None
        stage = Stage(step.phase.resolution, blend)
        real = to_images(preview_pixels(self.loader, self.manifest, step.phase.resolution, count)).to(self.device)
        real = blend_real(real.to(self.dtype), blend)
        z = normals(self.settings.seed, "preview", 0, 2 * columns, self.settings.model.latent, self.device)
        with torch.autocast(self.device.type, self.settings.engine.amp, enabled=self.settings.engine.amp is not None):
            pictures = {
                "images/real_reconstruction": figures.in_rows(
                    real, self.decoder(self.encoder(real, stage)[0], stage), columns=columns
                ),
                "images/sample": self.decoder(z.to(self.dtype), stage),
                "images/sample_ema": self.decoder_ema.module(z.to(self.dtype), stage),
            }
        self.monitor.images(step, {tag: figures.grid(images, columns) for tag, images in pictures.items()})

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, network, ema in (
            ("encoder", self.encoder, self.encoder_ema),
            ("decoder", self.decoder, self.decoder_ema),
        ):
            tensors |= network_tensors(name, network)
            tensors |= network_tensors(f"{name}_ema", ema.module)
            tensors |= optimizer_tensors(f"{name}_optim", network, self.players[name].optimizer)
        return tensors

    def _save(self, step: Step, terms: dict[str, Tensor]) -> None:
        start = perf_counter()
        self._check_finite(step, terms)
        self.monitor.sync()
        meta = {"phase": step.phase.index, "resolution": step.phase.resolution, "blend": step.blend,
                "blending": step.segment.blending, "seed": self.settings.seed,
                "data": self.manifest.digest}  # fmt: skip
        self.checkpoints.save(step.end, self._tensors(), meta)
        self.monitor.checkpoint_written(step, perf_counter() - start)

    def _resume(self) -> Checkpoint | None:
        found = on_first(self.checkpoints.latest)
        if found is None:
            return None
        on_first(found.verify)
        if found.meta["data"] != self.manifest.digest:
            raise ValueError(f"{self.settings.data.path} is not the data set that this run was begun with")
        tensors = found.load()
        for name, network, ema in (
            ("encoder", self.encoder, self.encoder_ema),
            ("decoder", self.decoder, self.decoder_ema),
        ):
            restore_network(name, network, tensors)
            restore_network(f"{name}_ema", ema.module, tensors)
            restore_optimizer(f"{name}_optim", network, self.players[name].optimizer, tensors)
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


def preview_pixels(loader: Loader, manifest: Manifest, resolution: int, count: int) -> Tensor:
    """uint8 [count, C, R, R]: the first test samples, or the first training samples of a set without test split."""
    first = manifest.train if manifest.test >= count else 0
    return torch.from_numpy(loader.reader(resolution).pixels(range(first, first + count)))
