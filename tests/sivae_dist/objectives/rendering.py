"""What the renderings of the paper's objectives share: its symbols, networks to try them on, and the comparison.

Nothing here knows the package's objectives but by what they are called with and what they return.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from data_pipelines.dataset import SAME_CLASS
from sivae_dist.models import Decoder, Encoder
from sivae_dist.models.layers.batch_norm import BatchStatistics, normalizing
from sivae_dist.models.residual import ResidualSettings
from sivae_dist.models.stage import Cond, Mixing, Stage
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings
from sivae_dist.models.translation import TranslationSettings
from sivae_dist.objectives.base import Draws

TOLERANCE = 1e-10
"""Relative, of losses and of gradients."""
BATCH = 4
LATENT = 6
BLEND = 0.3


# --- The paper's symbols --------------------------------------------------------------------------


@dataclass(frozen=True)
class Networks:
    """E and D as functions, and the parameters that either owns."""

    encode: Callable[[Tensor], tuple[Tensor, Tensor]]
    """image -> (mu, logvar)"""
    decode: Callable[[Tensor, Tensor | None, Mixing | None], Tensor]
    """(z, layer noise, style mixing) -> image"""
    phi: dict[str, Tensor]
    theta: dict[str, Tensor]


class Latent(NamedTuple):
    mu: Tensor
    logvar: Tensor
    sample: Tensor


Stop = Callable[[Tensor], Tensor]
"""sg(.)"""


def stop(value: Tensor) -> Tensor:
    return value.detach()


class Hold:
    """sg(.) by its meaning: the values of the first evaluation come back, in order, in every later one."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.position: int | None = None

    def __call__(self, value: Tensor) -> Tensor:
        if self.position is None:
            self.values.append(value.detach().clone())
            return self.values[-1]
        self.position += 1
        return self.values[self.position - 1]

    def replay(self) -> None:
        self.position = 0


def encode(net: Networks, image: Tensor, eps: Tensor) -> Latent:
    mu, logvar = net.encode(image)
    return Latent(mu, logvar, mu + torch.exp(logvar / 2) * eps)


def kl(z: Latent) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)), one number an image."""
    sigma = torch.exp(z.logvar / 2)
    return (sigma**2 / 2 + z.mu**2 / 2 - 0.5 - torch.log(sigma)).sum(dim=1)


Beta = float | dict[str, float]
"""Of all of z, or of each of GROUPS."""
GROUPS = {"class": slice(0, 2), "content": slice(2, LATENT)}


def weighted(beta: Beta, z: Latent) -> Tensor:
    """beta KL; appendix 9.3 has a beta for each group of z."""
    return torch.stack(list(kl_parts("", 1, beta, z).values())).sum(dim=0)


def kl_parts(name: str, factor: float | Tensor, beta: Beta, z: Latent) -> dict[str, Tensor]:
    """Its parts times a factor, by their names."""
    if not isinstance(beta, dict):
        return {name: factor * beta * kl(z)}
    groups = {group: Latent(*(part[:, of] for part in z)) for group, of in GROUPS.items()}
    return {f"{name} of {group}": factor * beta[group] * kl(part) for group, part in groups.items()}


def l_rec(kind: str, target: Tensor, image: Tensor) -> Tensor:
    """One number an image."""
    if kind == "mse":
        error = (target - image) ** 2
    elif kind == "l1":
        error = (target - image).abs()
    else:
        p = (target + 1) / 2
        q = ((image + 1) / 2).clamp(1e-6, 1 - 1e-6)
        error = -(p * torch.log(q) + (1 - p) * torch.log(1 - q))
    return error.flatten(1).sum(dim=1)


def noises(draws: Draws) -> list[Tensor | None]:
    """Of X_r, X_f, X_rf and X_ff."""
    return [None] * 4 if draws.noise is None else [draws.noise[:, k] for k in range(4)]


class Ascended(NamedTuple):
    """What an update ascends, and parts of it, whose gradients say how much every term matters."""

    total: Tensor
    parts: dict[str, Tensor]
    z: Latent | None = None


# --- Two pairs of networks ------------------------------------------------------------------------


class MlpEncoder(Encoder):
    """Called like the package's encoders; `mlp` below has the formulas again."""

    def __init__(self, pixels: int, latent: int, hidden: int = 7) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, hidden)
        self.second = nn.Linear(hidden, 2 * latent)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        mu, logvar = self.second(torch.tanh(self.first(x.flatten(1)))).chunk(2, dim=1)
        return mu, logvar


class MlpDecoder(Decoder):
    """Two `layers` with a style each, and noise in between."""

    def __init__(self, shape: tuple[int, int, int], latent: int, bounded: bool, hidden: int = 7) -> None:
        super().__init__()
        self.shape = shape
        self.bounded = bounded
        self.hidden = hidden
        self.first = nn.Linear(latent, hidden)
        self.noise_strength = nn.Parameter(torch.randn(hidden))
        self.second = nn.Linear(hidden, math.prod(shape))
        self.style = nn.Linear(latent, math.prod(shape), bias=False)

    def noise_size(self, resolution: int) -> int:
        return self.hidden

    def layer_count(self, resolution: int) -> int:
        return 2

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        mixing = cond.mixing
        styles = [z, z]
        if mixing is not None:
            styles = [torch.where((layer < mixing.cutoff)[:, None], z, mixing.z) for layer in range(2)]
        x = self.first(styles[0])
        if noise is not None:
            x = x + self.noise_strength * noise
        x = self.second(torch.tanh(x)) + self.style(styles[1])
        return (torch.tanh(x) if self.bounded else x).unflatten(1, self.shape)


@dataclass(frozen=True)
class Case:
    """Modules for the package, the same networks for the paper, and what both are given."""

    encoder: nn.Module
    decoder: nn.Module
    net: Networks
    x: Tensor
    cond: Cond
    draws: Draws
    resolution: int
    dimensions: int


def draw(decoder: nn.Module, resolution: int, seed: int, noise: bool, mixing: bool) -> Draws:
    torch.manual_seed(seed)
    size = decoder.noise_size(resolution)
    cutoff = torch.randint(0, decoder.layer_count(resolution) + 1, (BATCH,))
    cutoff[:2] = torch.tensor([1, decoder.layer_count(resolution)])  # One mixes for certain, one does not.
    other = torch.randn(BATCH, LATENT).double()
    return Draws(
        z=torch.randn(BATCH, LATENT).double(),
        eps=torch.randn(BATCH, 3, LATENT).double(),
        noise=torch.randn(BATCH, 4, size).double() if noise else None,
        mixing=Mixing(other, cutoff) if mixing else None,
    )


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters())


def mlp(
    reconstruction: str = "mse",
    *,
    noise: bool = True,
    mixing: bool = True,
    seed: int = 0,
    saturated: bool = False,
) -> Case:
    """The passes are written out in the weights, and the modules are not called."""
    torch.manual_seed(seed)
    shape = (3, 4, 4)
    pixels = math.prod(shape)
    bounded = reconstruction == "bce"
    encoder = MlpEncoder(pixels, LATENT).double()
    decoder = MlpDecoder(shape, LATENT, bounded).double()
    with torch.no_grad():
        encoder.first.weight *= 2
        encoder.second.weight *= 1.5
        decoder.style.weight *= 2
        if saturated:
            decoder.second.bias[:3] += torch.tensor([30.0, -30.0, 8.0])
    phi, theta = parameters(encoder), parameters(decoder)

    def encode(image: Tensor) -> tuple[Tensor, Tensor]:
        flat = image.reshape(image.shape[0], pixels)
        hidden = torch.tanh(flat @ phi["first.weight"].T + phi["first.bias"])
        out = hidden @ phi["second.weight"].T + phi["second.bias"]
        return out[:, :LATENT], out[:, LATENT:]

    def decode(z: Tensor, noise: Tensor | None, mixing: Mixing | None) -> Tensor:
        rows = []
        for b in range(z.shape[0]):
            low = high = z[b]
            if mixing is not None and mixing.cutoff[b] <= 0:
                low = mixing.z[b]
            if mixing is not None and mixing.cutoff[b] <= 1:
                high = mixing.z[b]
            hidden = theta["first.weight"] @ low + theta["first.bias"]
            if noise is not None:
                hidden = hidden + theta["noise_strength"] * noise[b]
            out = theta["second.weight"] @ torch.tanh(hidden) + theta["second.bias"]
            rows.append(out + theta["style.weight"] @ high)
        image = torch.stack(rows).reshape(z.shape[0], *shape)
        return torch.tanh(image) if bounded else image

    draws = draw(decoder, 4, seed + 1, noise, mixing)
    x = torch.tanh(torch.randn(BATCH, *shape, dtype=torch.float64))
    return Case(encoder, decoder, Networks(encode, decode, phi, theta), x, Cond(Stage(4)), draws, 4, pixels)


def style(
    reconstruction: str = "mse",
    *,
    noise: bool = True,
    mixing: bool = True,
    blending: bool = True,
    variant: str = "paper",
    labels: tuple[int, ...] = (),
    seed: int = 0,
) -> Case:
    """With `labels`, of BATCH images, the networks have classes, and every pass of the paper's has these labels."""
    torch.manual_seed(seed)
    settings = StyleSettings(
        variant=variant,
        resolution=8,
        latent=LATENT,
        base_width=4,
        max_width=8,
        encoder_mapping=2,
        decoder_mapping=2,
        mapping_lr_factor=1.0,
        to_rgb_gain=1.0,
        output="tanh" if reconstruction == "bce" else "linear",
        conditional=bool(labels),
        class_names=("ant", "bee", "cat") if labels else (),
    )
    encoder, decoder = StyleEncoder(settings).double(), StyleDecoder(settings).double()
    with torch.no_grad():
        for module in (encoder, decoder):
            for name, parameter in module.named_parameters():
                if "bias" in name or "noise_strength" in name:
                    parameter.normal_(std=0.3)
    blend = torch.tensor(BLEND, dtype=torch.float64) if blending else None
    cond = Cond(Stage(8, blend), torch.tensor(labels) if labels else None)
    net = Networks(
        lambda image: encoder(image, cond),
        lambda z, noise, mixing: decoder(z, cond._replace(mixing=mixing), noise),
        parameters(encoder),
        parameters(decoder),
    )
    draws = draw(decoder, 8, seed + 1, noise, mixing)
    x = torch.tanh(torch.randn(BATCH, 3, 8, 8, dtype=torch.float64))
    return Case(encoder, decoder, net, x, cond, draws, 8, settings.dimensions)


def residual(variant: str = "paper", norm: str = "group", labels: tuple[int, ...] = (), seed: int = 0) -> Case:
    """Networks without noise and styles, with classes if there are `labels`.

    Each pass of the paper's is normalised by itself.
    """
    torch.manual_seed(seed)
    names = ("ant", "bee", "cat") if labels else ()
    settings = ResidualSettings(
        variant=variant, norm=norm, resolution=16, latent=LATENT, widths=[4, 6], conditional=bool(labels),
        class_names=names,
    )  # fmt: skip
    encoder, decoder = (network.double() for network in settings.networks())
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    cond = Cond(Stage(16), torch.tensor(labels) if labels else None)

    def encode(image: Tensor) -> tuple[Tensor, Tensor]:
        with normalizing(BatchStatistics()):
            codes: tuple[Tensor, Tensor] = encoder(image, cond)
        return codes

    def decode(z: Tensor, noise: Tensor | None, mixing: Mixing | None) -> Tensor:
        with normalizing(BatchStatistics()):
            image: Tensor = decoder(z, cond)
        return image

    net = Networks(encode, decode, parameters(encoder), parameters(decoder))
    draws = draw(decoder, 16, seed + 1, noise=False, mixing=False)
    x = torch.tanh(torch.randn(BATCH, 3, 16, 16, dtype=torch.float64))
    return Case(encoder, decoder, net, x, cond, draws, 16, settings.dimensions)


def translation(class_from: str, seed: int = 0) -> Case:
    """Two encoders, of which that of the class sees another image than x where `class_from` says so."""
    torch.manual_seed(seed)
    settings = TranslationSettings(
        resolution=32, class_latent=2, content_latent=4, class_from=class_from, widths=[2, 3, 4, 4], hidden_units=5,
        decoder_width=8, last_width=3,
    )  # fmt: skip
    encoder, decoder = (network.double() for network in settings.networks())
    with torch.no_grad():
        for parameter in (*encoder.parameters(), *decoder.parameters()):
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    x, other = torch.tanh(torch.randn(2, BATCH, 3, 32, 32, dtype=torch.float64))
    bare = Cond(Stage(32))

    def encode(image: Tensor) -> tuple[Tensor, Tensor]:
        seen = other if image is x and class_from == "another" else image
        of_class, of_content = encoder(seen, bare), encoder(image, bare)
        first, second = GROUPS.values()
        mu, logvar = (torch.cat((a[:, first], b[:, second]), 1) for a, b in zip(of_class, of_content, strict=True))
        return mu, logvar

    net = Networks(encode, lambda z, noise, mixing: decoder(z, bare), parameters(encoder), parameters(decoder))
    draws = draw(decoder, 32, seed + 1, noise=False, mixing=False)
    cond = bare._replace(extra={SAME_CLASS: other}) if class_from == "another" else bare
    return Case(encoder, decoder, net, x, cond, draws, 32, settings.dimensions)


CASES: dict[str, Callable[..., Case]] = {"mlp": mlp, "style": style}
EVERY_CASE = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


# --- The comparison -------------------------------------------------------------------------------


class Update(NamedTuple):
    loss: float
    gradients: dict[str, Tensor]


class Step(NamedTuple):
    encoder: Update
    decoder: Update
    z: Tensor


def freeze(module: nn.Module, frozen: bool) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)


def backward(loss: Tensor, player: nn.Module, partner: nn.Module) -> Update:
    player.zero_grad(set_to_none=True)
    loss.backward()
    assert all(parameter.grad is None for parameter in partner.parameters())
    gradients = {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in player.named_parameters()
    }
    player.zero_grad(set_to_none=True)
    return Update(loss.item(), gradients)


def package(case: Case, settings: Any, *, warming_up: bool = False) -> Step:
    encoder, decoder = case.encoder, case.decoder
    encoder_objective, decoder_objective = settings.build(
        encoder, decoder, case.resolution, case.dimensions, warming_up=warming_up
    )
    freeze(encoder, False)
    freeze(decoder, True)
    loss, _, z, _ = encoder_objective(case.x, case.cond, case.draws)
    first = backward(loss, encoder, decoder)
    freeze(encoder, True)
    freeze(decoder, False)
    loss, _, _ = decoder_objective(case.x, z, case.cond, case.draws)
    second = backward(loss, decoder, encoder)
    freeze(encoder, False)
    return Step(first, second, z)


def gradients(loss: Tensor, of: dict[str, Tensor], *, keep: bool = False) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(of.values()), retain_graph=keep, allow_unused=True)
    return {name: torch.zeros_like(of[name]) if one is None else one for name, one in zip(of, found, strict=True)}


def norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def distance(one: Update, other: Update) -> float:
    """The largest relative difference, of the loss or of any parameter's gradient.

    A gradient that is zero but for rounding, as that of a bias before a normalization, is measured on the scale of the
    whole, a small one on a ten-thousandth of it.
    """
    assert one.gradients.keys() == other.gradients.keys()
    whole = norm(other.gradients.values())
    assert whole > 0
    found = [abs(one.loss - other.loss) / abs(other.loss)]
    for name, reference in other.gradients.items():
        size = norm([reference])
        scale = max(size, 1e-4 * whole) if size > TOLERANCE * whole else whole
        found.append(norm([one.gradients[name] - reference]) / scale)
    return max(found)


def derivative(f: Callable[[], float], of: dict[str, Tensor], direction: dict[str, Tensor]) -> float:
    """Of f along the direction, from its values at six points: the error is of the order of step^6."""
    start = {name: tensor.detach().clone() for name, tensor in of.items()}

    def at(t: float) -> float:
        with torch.no_grad():
            for name, tensor in of.items():
                tensor.copy_(start[name] + t * direction[name])
            return f()

    step = 3e-3
    differences = [(at(k * step) - at(-k * step)) / (2 * step) for k in (1, 2, 3)]
    at(0)
    return 1.5 * differences[0] - 0.3 * differences[1] + differences[2] / 30


def printed(
    case: Case, h: Any, encoder_update: Callable[..., Ascended], decoder_update: Callable[..., Ascended]
) -> Step:
    """What a rendering makes of the case: as losses to be descended, like the package's."""
    ascended = encoder_update(case.net, h, case.x, case.draws)
    assert ascended.z is not None
    z = ascended.z.sample.detach()
    encoder = Update(-ascended.total.item(), gradients(-ascended.total, case.net.phi))
    ascended = decoder_update(case.net, h, case.x, z, case.draws)
    decoder = Update(-ascended.total.item(), gradients(-ascended.total, case.net.theta))
    return Step(encoder, decoder, z)


def compare(ours: Step, reference: Step) -> None:
    torch.testing.assert_close(ours.z, reference.z, rtol=1e-12, atol=1e-12)
    assert not ours.z.requires_grad
    assert distance(ours.encoder, reference.encoder) < TOLERANCE
    assert distance(ours.decoder, reference.decoder) < TOLERANCE


def slopes(update: Update, of: dict[str, Tensor], ascended: Callable[[Stop], Tensor]) -> tuple[float, float]:
    """Of the loss along one direction: from the package's gradients, and from values of what the paper ascends.

    What is stopped keeps its first value.
    """
    unit = {name: gradient / norm(update.gradients.values()) for name, gradient in update.gradients.items()}
    torch.manual_seed(61)
    aside = {name: torch.randn_like(tensor) for name, tensor in unit.items()}
    length = norm(aside.values())
    direction = {name: unit[name] + aside[name] / length for name in unit}
    expected = sum((update.gradients[name] * direction[name]).sum().item() for name in unit)
    hold = Hold()
    ascended(hold)

    def loss() -> float:
        hold.replay()
        return -ascended(hold).item()

    return expected, derivative(loss, of, direction)


def shares(update: Ascended, of: dict[str, Tensor]) -> dict[str, float]:
    """The size of every part's gradient, relative to the whole's. The parts must be all there is."""
    whole = gradients(update.total, of, keep=True)
    parts = {name: gradients(part, of, keep=True) for name, part in update.parts.items()}
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts.values()), gradient)
    return {name: norm(part.values()) / norm(whole.values()) for name, part in parts.items()}
