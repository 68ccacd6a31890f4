"""Single training steps, as the trainer takes them, on given images and draws."""

from typing import Any

import torch
from torch import Tensor

from sivae_dist.config.run_settings import RunSettings
from sivae_dist.models.stage import Cond, Mixing, Stage, blend_real
from sivae_dist.objectives import Draws
from sivae_dist.process import numerics
from sivae_dist.step.randomness import draw
from sivae_dist.step.schedule import Segment
from sivae_dist.train.players import Players

SEED = 7


class Stepper:
    """Both players on a device, at one resolution."""

    def __init__(
        self,
        settings: RunSettings,
        device: torch.device,
        resolution: int,
        *,
        blending: bool = False,
        warming_up: bool = False,
    ) -> None:
        engine = settings.engine
        numerics.set_environment(engine.deterministic)
        numerics.configure(engine.precision, engine.deterministic, device)
        self.settings = settings
        self.device = device
        self.resolution = resolution
        self.stage = Stage(resolution, torch.full((), 0.5, device=device) if blending else None)
        self.players = Players(settings, device)
        self.players.prepare(Segment(resolution, blending, warming_up))
        self.allowed = torch.ones((), dtype=torch.bool, device=device)

    def cond(self, count: int) -> Cond:
        """Of `count` images: with random labels where the networks are told them, and random images for their further
        inputs, the same on every device."""
        classes, names = self.settings.model.classes, self.settings.model.inputs
        images = (self.images(count, SEED + place) for place in range(1, 1 + len(names)))
        extra = {name: blend_real(x, self.stage.blend) for name, x in zip(names, images, strict=True)}
        if not classes:
            return Cond(self.stage, extra=extra)
        labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(SEED))
        return Cond(self.stage, labels.to(self.device), extra=extra)

    def images(self, count: int, seed: int = SEED) -> Tensor:
        """Random images [count, C, R, R] in [-1, 1], the same on every device."""
        model, engine = self.settings.model, self.settings.engine
        generator = torch.Generator().manual_seed(seed)
        x = torch.rand(count, *model.shape(self.resolution), generator=generator) * 2 - 1
        return x.to(self.device, engine.dtype).contiguous(memory_format=engine.image_format(x))

    def draws(self, count: int, on: torch.device | None = None) -> Draws:
        """The trainer's draws for the first positions. `on`: the device to draw on before copying to `self.device`."""
        decoder, settings = self.players.decoder, self.settings
        drawn = draw(
            settings.seed,
            0,
            count,
            latent=settings.model.latent,
            noise_size=decoder.noise_size(self.resolution),
            layers=decoder.layer_count(self.resolution),
            mixing=settings.objective.mixing_share,
            device=on or self.device,
            dtype=settings.engine.dtype,
        )
        return moved(drawn, self.device)

    def step(self, x: Tensor, draws: Draws, lr: float = 1e-3) -> dict[str, Tensor]:
        """Takes a step (Algorithm 2, lines 4 to 28) and updates the averages; returns its terms, on the device."""
        x, cond = blend_real(x, self.stage.blend), self.cond(x.shape[0])
        encoder = self.players.encoder_engine.update([(x, cond, draws)], lr, self.allowed)
        (first,) = encoder.turns
        decoder = self.players.decoder_engine.update([(x, first.crossing, cond, draws)], lr, encoder.taken)
        (second,) = decoder.turns
        self.players.average(x.shape[0])
        return first.terms | second.terms | {"taken": decoder.taken}


def moved(draws: Draws, device: torch.device) -> Draws:
    """The same draws on another device."""

    def there(tensor: Any) -> Any:
        return None if tensor is None else tensor.to(device)

    mixing = draws.mixing
    if mixing is not None:
        mixing = Mixing(*(there(tensor) for tensor in mixing))
    return Draws(z=there(draws.z), eps=there(draws.eps), noise=there(draws.noise), mixing=mixing)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def worst(got: dict[str, Tensor], want: dict[str, Tensor]) -> tuple[str, float]:
    """The tensor with the largest relative difference, and that difference; infinity when names differ."""
    if got.keys() != want.keys():
        return "names of tensors", float("inf")
    name = max(want, key=lambda name: difference(got[name], want[name]))
    return name, difference(got[name], want[name])


def difference(got: Tensor, want: Tensor) -> float:
    """Norm of the difference relative to that of `want`; infinity when either tensor is not finite."""
    got, want = got.double().cpu(), want.double().cpu()
    size = torch.linalg.vector_norm(got - want) / (torch.linalg.vector_norm(want) + 1e-3)
    return float(torch.nan_to_num(size, nan=torch.inf))


def apart(got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """Distance between all weights of two checkpoints, relative to their norm.

    A comparison of single tensors would measure rounding errors in fp32: the gradient of a bias before a normalization
    consists of nothing else.
    """
    names = [name for name in want if name.startswith(("encoder.", "decoder."))]
    pairs = [(got[name].double().cpu(), want[name].double().cpu()) for name in names]
    total = sum(float((a - b).square().sum()) for a, b in pairs) / sum(float(b.square().sum()) for _, b in pairs)
    return float(total**0.5)


def same(got: dict[str, Tensor], want: dict[str, Tensor]) -> str | None:
    """The first tensor whose bits differ; None when all are equal."""
    if got.keys() != want.keys():
        return "names of tensors"
    return next((name for name in want if not torch.equal(got[name].cpu(), want[name].cpu())), None)
