"""The objective against a literal rendering of appendix 9.1: Algorithm 2 and equation 7, in float64.

`algorithm_2_*` and `equation_7` below follow the printed lines one by one, with every pass through a network
by itself, and know nothing of the package's objectives but what their settings mean. What the paper leaves
open: reconstruction errors are summed over an image and KL divergences over the latent, in nats; the
exponential is taken for each image and averaged over the batch; 1/alpha exp(alpha s ELBO) has alpha = 2 in
Algorithm 2; the cross entropy bounds what it takes logarithms of.

Gradients are autograd's on both sides, but for `test_gradients_are_derivatives`, which needs losses only.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.models.stage import Mixing, Stage
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings
from sivae_dist.objectives.player import Draws
from sivae_dist.objectives.soft_intro import SoftIntroSettings

TOLERANCE = 1e-9
"""Relative, of losses and of gradients."""
BATCH = 4
LATENT = 6
BLEND = 0.3


# --- The paper ------------------------------------------------------------------------------------


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


def elbo(kind: str, beta_rec: float, beta_kl: float, target: Tensor, image: Tensor, z: Latent) -> Tensor:
    return -1 * (beta_rec * l_rec(kind, target, image) + beta_kl * kl(z))  # Lines 31 to 34


@dataclass(frozen=True)
class Hyper:
    beta_rec: float = 0.2
    beta_kl: float = 0.9
    beta_neg: float = 8.0
    gamma_r: float = 0.3
    s: float = 0.003
    alpha: float = 2.0
    reconstruction: str = "mse"
    stop_gradient: str = "none"

    def settings(self) -> SoftIntroSettings:
        return SoftIntroSettings(
            beta_rec=self.beta_rec,
            beta_kl=self.beta_kl,
            beta_neg=self.beta_neg,
            gamma_r=self.gamma_r,
            scale=self.s,
            alpha=self.alpha,
            reconstruction=self.reconstruction,
            stop_gradient=self.stop_gradient,
        )


def noises(draws: Draws) -> list[Tensor | None]:
    """Of X_r, X_f, X_rf and X_ff."""
    return [None] * 4 if draws.noise is None else [draws.noise[:, k] for k in range(4)]


class Ascended(NamedTuple):
    """What an update ascends, and parts of it: their gradients say how much every term matters."""

    total: Tensor
    parts: dict[str, Tensor]
    z: Latent | None = None


def algorithm_2_encoder(net: Networks, h: Hyper, x: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    kind = h.reconstruction
    z = encode(net, x, draws.eps[:, 0])  # 5
    z_f = draws.z  # 6
    x_r = net.decode(z.sample, noise_r, None)  # 8
    x_f = net.decode(z_f, noise_f, draws.mixing)
    again_r, again_f = x_r, x_f
    if h.stop_gradient == "reencoded":
        again_r, again_f = sg(x_r), sg(x_f)
    z_rf = encode(net, again_r, draws.eps[:, 1])  # 9
    z_ff = encode(net, again_f, draws.eps[:, 2])
    x_rf = net.decode(z_rf.sample, noise_rf, None)  # 10
    x_ff = net.decode(z_ff.sample, noise_ff, None)
    elbo_x = h.s * elbo(kind, h.beta_rec, h.beta_kl, x, x_r, z)  # 11
    elbo_r = elbo(kind, h.beta_rec, h.beta_neg, x_r, x_rf, z_rf)  # 12
    elbo_f = elbo(kind, h.beta_rec, h.beta_neg, x_f, x_ff, z_ff)  # 13
    exp_elbo_r = 1 / h.alpha * torch.exp(h.alpha * h.s * elbo_r)  # 14
    exp_elbo_f = 1 / h.alpha * torch.exp(h.alpha * h.s * elbo_f)  # 15
    l_e = elbo_x - 0.5 * (exp_elbo_r + exp_elbo_f)  # 16

    # Not in the paper: the same, in the parts whose gradients add up to the whole's.
    steep_r = 0.5 * h.s * torch.exp(h.alpha * h.s * elbo_r).detach()
    steep_f = 0.5 * h.s * torch.exp(h.alpha * h.s * elbo_f).detach()
    parts = {
        "rec(x)": -h.s * h.beta_rec * l_rec(kind, x, x_r),
        "kl(x)": -h.s * h.beta_kl * kl(z),
        "rec(x_r)": steep_r * h.beta_rec * l_rec(kind, x_r, x_rf),
        "kl(x_r)": steep_r * h.beta_neg * kl(z_rf),
        "rec(x_f)": steep_f * h.beta_rec * l_rec(kind, x_f, x_ff),
        "kl(x_f)": steep_f * h.beta_neg * kl(z_ff),
    }
    return Ascended(l_e.mean(), {name: part.mean() for name, part in parts.items()}, z)


def algorithm_2_decoder(net: Networks, h: Hyper, x: Tensor, z: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    """`z` is line 5's."""
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    kind = h.reconstruction
    z_f = draws.z  # 6
    x_r = net.decode(z, noise_r, None)  # 20
    x_f = net.decode(z_f, noise_f, draws.mixing)
    z_rf = encode(net, x_r, draws.eps[:, 1])  # 21
    z_ff = encode(net, x_f, draws.eps[:, 2])
    x_rf = sg(net.decode(z_rf.sample, noise_rf, None))  # 22
    x_ff = sg(net.decode(z_ff.sample, noise_ff, None))
    elbo_x = -h.beta_rec * l_rec(kind, x, x_r)  # 23, with the sign that line 26 and equation 7 imply
    elbo_r = elbo(kind, h.gamma_r * h.beta_rec, h.beta_kl, x_r, x_rf, z_rf)  # 24
    elbo_f = elbo(kind, h.gamma_r * h.beta_rec, h.beta_kl, x_f, x_ff, z_ff)  # 25
    l_d = h.s * (elbo_x + 0.5 * (elbo_r + elbo_f))  # 26

    parts = {
        "rec(x)": -h.s * h.beta_rec * l_rec(kind, x, x_r),
        "kl(x_r)": -0.5 * h.s * h.beta_kl * kl(z_rf),
        "kl(x_f)": -0.5 * h.s * h.beta_kl * kl(z_ff),
    }
    if h.gamma_r:
        parts["rec(x_r)"] = -0.5 * h.s * h.gamma_r * h.beta_rec * l_rec(kind, x_r, x_rf)
        parts["rec(x_f)"] = -0.5 * h.s * h.gamma_r * h.beta_rec * l_rec(kind, x_f, x_ff)
    return Ascended(l_d.mean(), {name: part.mean() for name, part in parts.items()})


class Fake(NamedTuple):
    """What equation 7's D(z) needs beside z, and what the passes behind it need."""

    z: Tensor
    noise: Tensor | None
    mixing: Mixing | None
    eps: Tensor
    noise_again: Tensor | None


def equation_7(net: Networks, h: Hyper, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Both losses, to be descended, with squared errors.

    Section 9.1 counts reconstructions among the generated images, so z is from the posterior in one half of
    the cases and from the prior in the other.
    """
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    mu, logvar = net.encode(x)
    posterior = mu + torch.exp(0.5 * logvar) * draws.eps[:, 0]
    fakes = [
        Fake(posterior, noise_r, None, draws.eps[:, 1], noise_rf),
        Fake(draws.z, noise_f, draws.mixing, draws.eps[:, 2], noise_ff),
    ]

    def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
        return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1)

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bchw,bchw->b", a - b, a - b)

    real = h.beta_rec * squares(x, net.decode(posterior, noise_r, None)) + h.beta_kl * divergence(mu, logvar)
    push: list[Tensor] = []
    pull: list[Tensor] = []
    for fake in fakes:
        image = net.decode(fake.z, fake.noise, fake.mixing)
        mu, logvar = net.encode(image)
        again = net.decode(mu + torch.exp(0.5 * logvar) * fake.eps, fake.noise_again, None)
        exponent = h.beta_rec * squares(image, again) + h.beta_neg * divergence(mu, logvar)
        push.append(0.5 * torch.exp(-2 * h.s * exponent))

        image = net.decode(fake.z.detach(), fake.noise, fake.mixing)
        mu, logvar = net.encode(image)
        fooled = h.beta_kl * divergence(mu, logvar)
        pull.append(fooled + h.gamma_r * h.beta_rec * squares(image, again.detach()))
    l_e = h.s * real.mean() + torch.cat(push).mean()
    l_d = h.s * h.beta_rec * squares(x, net.decode(posterior.detach(), noise_r, None)).mean()
    return l_e, l_d + h.s * torch.cat(pull).mean()


# --- Two pairs of networks ------------------------------------------------------------------------


class MlpEncoder(nn.Module):
    """Called like the package's encoders; `mlp` below has the formulas again."""

    def __init__(self, pixels: int, latent: int, hidden: int = 7) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, hidden)
        self.second = nn.Linear(hidden, 2 * latent)

    def forward(self, x: Tensor, stage: Stage) -> tuple[Tensor, Tensor]:
        mu, logvar = self.second(torch.tanh(self.first(x.flatten(1)))).chunk(2, dim=1)
        return mu, logvar


class MlpDecoder(nn.Module):
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

    def forward(self, z: Tensor, stage: Stage, noise: Tensor | None = None, mixing: Mixing | None = None) -> Tensor:
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
    blend: Tensor | None
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


def mlp(h: Hyper, *, noise: bool = True, mixing: bool = True, seed: int = 0, saturated: bool = False) -> Case:
    """The passes are written out in the weights, and the modules are not called."""
    torch.manual_seed(seed)
    shape = (3, 4, 4)
    pixels = math.prod(shape)
    bounded = h.reconstruction == "bce"
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
    return Case(encoder, decoder, Networks(encode, decode, phi, theta), x, None, draws, 4, pixels)


def style(
    h: Hyper,
    *,
    noise: bool = True,
    mixing: bool = True,
    blending: bool = True,
    variant: str = "paper",
    seed: int = 0,
) -> Case:
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
        output="tanh" if h.reconstruction == "bce" else "linear",
    )
    encoder, decoder = StyleEncoder(settings).double(), StyleDecoder(settings).double()
    with torch.no_grad():
        for module in (encoder, decoder):
            for name, parameter in module.named_parameters():
                if "bias" in name or "noise_strength" in name:
                    parameter.normal_(std=0.3)
    blend = torch.tensor(BLEND, dtype=torch.float64) if blending else None
    stage = Stage(8, blend)
    net = Networks(
        lambda image: encoder(image, stage),
        lambda z, noise, mixing: decoder(z, stage, noise, mixing),
        parameters(encoder),
        parameters(decoder),
    )
    draws = draw(decoder, 8, seed + 1, noise, mixing)
    x = torch.tanh(torch.randn(BATCH, 3, 8, 8, dtype=torch.float64))
    return Case(encoder, decoder, net, x, blend, draws, 8, settings.dimensions)


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


def package(case: Case, settings: SoftIntroSettings, *, warming_up: bool = False) -> Step:
    encoder, decoder = case.encoder, case.decoder
    encoder_objective, decoder_objective = settings.build(
        encoder, decoder, case.resolution, case.dimensions, warming_up=warming_up
    )
    freeze(encoder, False)
    freeze(decoder, True)
    loss, _, z = encoder_objective(case.x, case.blend, case.draws)
    first = backward(loss, encoder, decoder)
    freeze(encoder, True)
    freeze(decoder, False)
    loss, _ = decoder_objective(case.x, z, case.blend, case.draws)
    second = backward(loss, decoder, encoder)
    freeze(encoder, False)
    return Step(first, second, z)


def gradients(loss: Tensor, of: dict[str, Tensor], *, keep: bool = False) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(of.values()), retain_graph=keep, allow_unused=True)
    return {name: torch.zeros_like(of[name]) if one is None else one for name, one in zip(of, found, strict=True)}


def paper(case: Case, h: Hyper) -> Step:
    """As losses to be descended, like the package's."""
    net = case.net
    ascended = algorithm_2_encoder(net, h, case.x, case.draws)
    assert ascended.z is not None
    z = ascended.z.sample.detach()
    encoder = Update(-ascended.total.item(), gradients(-ascended.total, net.phi))
    ascended = algorithm_2_decoder(net, h, case.x, z, case.draws)
    decoder = Update(-ascended.total.item(), gradients(-ascended.total, net.theta))
    return Step(encoder, decoder, z)


def norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def distance(one: Update, other: Update) -> float:
    """The largest relative difference, of the loss or of any parameter's gradient.

    A gradient that is zero but for rounding is measured on the scale of the whole.
    """
    assert one.gradients.keys() == other.gradients.keys()
    whole = norm(other.gradients.values())
    assert whole > 0
    found = [abs(one.loss - other.loss) / abs(other.loss)]
    for name, reference in other.gradients.items():
        scale = max(norm([reference]), 1e-4 * whole)
        found.append(norm([one.gradients[name] - reference]) / scale)
    return max(found)


def check(case: Case, h: Hyper) -> None:
    ours, printed = package(case, h.settings()), paper(case, h)
    torch.testing.assert_close(ours.z, printed.z, rtol=1e-12, atol=1e-12)
    assert not ours.z.requires_grad
    assert distance(ours.encoder, printed.encoder) < TOLERANCE
    assert distance(ours.decoder, printed.decoder) < TOLERANCE


SETTINGS = [
    pytest.param(
        Hyper(stop_gradient=stop_gradient, gamma_r=gamma_r, alpha=alpha, reconstruction=reconstruction),
        id=f"{stop_gradient}-gamma{gamma_r}-alpha{alpha}-{reconstruction}",
    )
    for stop_gradient in ("none", "reencoded")
    for gamma_r in (0.3, 0.0)
    for alpha in (2.0, 1.0)
    for reconstruction in ("mse", "l1", "bce")
]
CASES: dict[str, Callable[..., Case]] = {"mlp": mlp, "style": style}
EVERY_CASE = pytest.mark.parametrize("make", CASES.values(), ids=CASES)


@EVERY_CASE
@pytest.mark.parametrize("h", SETTINGS)
def test_algorithm_2(make: Callable[..., Case], h: Hyper) -> None:
    check(make(h), h)


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
@pytest.mark.parametrize("blending", [False, True], ids=["whole", "blending"])
@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("mixing", [False, True], ids=["plain", "mixing"])
@pytest.mark.parametrize("gamma_r", [0.3, 0.0])
def test_stages_noise_and_mixing(stop_gradient: str, blending: bool, noise: bool, mixing: bool, gamma_r: float) -> None:
    h = Hyper(stop_gradient=stop_gradient, gamma_r=gamma_r)
    check(style(h, blending=blending, noise=noise, mixing=mixing, seed=10), h)


@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("mixing", [False, True], ids=["plain", "mixing"])
def test_noise_and_mixing_of_plain_networks(noise: bool, mixing: bool) -> None:
    check(mlp(Hyper(), noise=noise, mixing=mixing, seed=20), Hyper())


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_official_networks(stop_gradient: str) -> None:
    h = Hyper(stop_gradient=stop_gradient)
    check(style(h, variant="official", seed=30), h)


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_bce_of_saturated_pixels(stop_gradient: str) -> None:
    """Predicted probabilities end at 1e-6 from 0 and 1, and their gradients with them; targets do not."""
    h = Hyper(reconstruction="bce", stop_gradient=stop_gradient)
    case = mlp(h, saturated=True, seed=40)
    image = case.net.decode(case.draws.z, None, None).flatten(1)
    assert (image[:, 0] == 1).all() and (image[:, 1] == -1).all()
    check(case, h)


@EVERY_CASE
def test_scale_is_the_inverse_of_the_dimensions(make: Callable[..., Case]) -> None:
    case = make(Hyper())
    h = Hyper(s=1 / case.x[0].numel())
    settings = h.settings().model_copy(update={"scale": None})
    ours, printed = package(case, settings), paper(case, h)
    assert distance(ours.encoder, printed.encoder) < TOLERANCE
    assert distance(ours.decoder, printed.decoder) < TOLERANCE


@EVERY_CASE
@pytest.mark.parametrize("gamma_r", [0.3, 0.0])
def test_equation_7(make: Callable[..., Case], gamma_r: float) -> None:
    h = Hyper(gamma_r=gamma_r)
    case = make(h, seed=50)
    l_e, l_d = equation_7(case.net, h, case.x, case.draws)
    ours = package(case, h.settings())
    assert distance(ours.encoder, Update(l_e.item(), gradients(l_e, case.net.phi, keep=True))) < TOLERANCE
    assert distance(ours.decoder, Update(l_d.item(), gradients(l_d, case.net.theta))) < TOLERANCE


# --- Without autograd -----------------------------------------------------------------------------


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


@pytest.mark.parametrize("reconstruction", ["mse", "bce"])
@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_gradients_are_derivatives(stop_gradient: str, reconstruction: str) -> None:
    """The package's gradients are the slopes of the paper's losses; what is stopped keeps its first value."""
    h = Hyper(stop_gradient=stop_gradient, reconstruction=reconstruction)
    case = mlp(h, seed=60)
    net = case.net
    ours = package(case, h.settings())

    def slope(update: Update, of: dict[str, Tensor], evaluate: Callable[[Stop], Ascended]) -> tuple[float, float]:
        unit = {name: gradient / norm(update.gradients.values()) for name, gradient in update.gradients.items()}
        torch.manual_seed(61)
        aside = {name: torch.randn_like(tensor) for name, tensor in unit.items()}
        length = norm(aside.values())
        direction = {name: unit[name] + aside[name] / length for name in unit}
        expected = sum((update.gradients[name] * direction[name]).sum().item() for name in unit)
        hold = Hold()
        evaluate(hold)

        def loss() -> float:
            hold.replay()
            return -evaluate(hold).total.item()

        return expected, derivative(loss, of, direction)

    expected, found = slope(ours.encoder, net.phi, lambda sg: algorithm_2_encoder(net, h, case.x, case.draws, sg))
    assert found == pytest.approx(expected, rel=1e-7)
    expected, found = slope(
        ours.decoder, net.theta, lambda sg: algorithm_2_decoder(net, h, case.x, ours.z, case.draws, sg)
    )
    assert found == pytest.approx(expected, rel=1e-7)


# --- Algorithm 2 as a loop ------------------------------------------------------------------------


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_three_iterations(stop_gradient: str) -> None:
    """Lines 3 to 29: the decoder's update sees the new encoder, and the old one's Z."""
    h = Hyper(stop_gradient=stop_gradient)
    ours, printed = mlp(h, seed=70), mlp(h, seed=70)
    start = [value.detach().clone() for value in (*parameters(ours.encoder).values(), *ours.net.theta.values())]

    encoder_objective, decoder_objective = h.settings().build(ours.encoder, ours.decoder, 4, ours.dimensions)
    encoder_adam = torch.optim.Adam(ours.encoder.parameters(), lr=0.01)
    decoder_adam = torch.optim.Adam(ours.decoder.parameters(), lr=0.01)
    phi_adam = torch.optim.Adam(printed.net.phi.values(), lr=0.01, maximize=True)
    theta_adam = torch.optim.Adam(printed.net.theta.values(), lr=0.01, maximize=True)
    for iteration in range(3):
        draws = draw(ours.decoder, 4, 71 + iteration, noise=True, mixing=True)
        x = torch.tanh(torch.randn_like(ours.x))

        freeze(ours.decoder, True)
        loss, _, z = encoder_objective(x, None, draws)
        encoder_adam.zero_grad()
        loss.backward()
        encoder_adam.step()
        freeze(ours.decoder, False)
        freeze(ours.encoder, True)
        loss, _ = decoder_objective(x, z, None, draws)
        decoder_adam.zero_grad()
        loss.backward()
        decoder_adam.step()
        freeze(ours.encoder, False)

        net = printed.net
        ascended = algorithm_2_encoder(net, h, x, draws)
        assert ascended.z is not None
        for name, gradient in gradients(ascended.total, net.phi).items():
            net.phi[name].grad = gradient
        phi_adam.step()
        ascended = algorithm_2_decoder(net, h, x, ascended.z.sample.detach(), draws)
        for name, gradient in gradients(ascended.total, net.theta).items():
            net.theta[name].grad = gradient
        theta_adam.step()

    end = [*ours.net.phi.values(), *ours.net.theta.values()]
    reference = [*printed.net.phi.values(), *printed.net.theta.values()]
    moved = norm(one - other for one, other in zip(reference, start, strict=True))
    assert moved > 0.1
    assert norm(one - other for one, other in zip(end, reference, strict=True)) < 1e-8 * moved


# --- The warm-up ----------------------------------------------------------------------------------


@EVERY_CASE
@pytest.mark.parametrize("reconstruction", ["mse", "l1", "bce"])
def test_warmup_is_a_vae(make: Callable[..., Case], reconstruction: str) -> None:
    """Both updates together are one joint step on s (beta_rec L + beta_kl KL)."""
    h = Hyper(reconstruction=reconstruction)
    case = make(h, seed=80)
    net = case.net
    z = encode(net, case.x, case.draws.eps[:, 0])
    error = l_rec(reconstruction, case.x, net.decode(z.sample, noises(case.draws)[0], None)).mean()
    joint = h.s * (h.beta_rec * error + h.beta_kl * kl(z).mean())
    for part in (error, kl(z).mean()):
        assert norm(gradients(part, net.phi, keep=True).values()) > 0.1
    both = gradients(joint, {f"E.{k}": v for k, v in net.phi.items()} | {f"D.{k}": v for k, v in net.theta.items()})

    ours = package(case, h.settings(), warming_up=True)
    torch.testing.assert_close(ours.z, z.sample.detach(), rtol=1e-12, atol=1e-12)
    assert ours.encoder.loss == pytest.approx(joint.item(), rel=TOLERANCE)
    for update, prefix in ((ours.encoder, "E."), (ours.decoder, "D.")):
        reference = {name[2:]: value for name, value in both.items() if name.startswith(prefix)}
        assert distance(update, Update(update.loss, reference)) < TOLERANCE


# --- Players --------------------------------------------------------------------------------------


@EVERY_CASE
@pytest.mark.parametrize("warming_up", [False, True], ids=["soft_intro", "warmup"])
def test_players(make: Callable[..., Case], warming_up: bool) -> None:
    case = make(Hyper())
    objectives = (
        Hyper().settings().build(case.encoder, case.decoder, case.resolution, case.dimensions, warming_up=warming_up)
    )
    players = (case.encoder, case.decoder)
    z = torch.empty(0)
    for turn, objective in enumerate(objectives):
        player, partner = players[turn], players[1 - turn]
        own = dict(objective.named_parameters())
        assert {id(p) for p in own.values()} == {id(p) for p in player.parameters()}
        assert not {id(p) for p in own.values()} & {id(p) for p in partner.parameters()}
        assert {name.removeprefix("player.") for name in own} == parameters(player).keys()
        assert not set(objective.modules()) & set(partner.modules())

        freeze(player, False)
        freeze(partner, True)
        out: Any = (
            objective(case.x, case.blend, case.draws) if turn == 0 else objective(case.x, z, case.blend, case.draws)
        )
        loss, terms = out[:2]
        assert loss.ndim == 0 and loss.dtype == torch.float64
        assert terms and all(term.ndim == 0 and not term.requires_grad for term in terms.values())
        if turn == 0:
            z = out[2]
            assert z.shape == (BATCH, LATENT) and not z.requires_grad
        loss.backward()
        assert all(p.grad is None for p in partner.parameters())
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in player.parameters())
        player.zero_grad(set_to_none=True)


# --- Whether these tests can fail -----------------------------------------------------------------


@EVERY_CASE
@pytest.mark.parametrize("h", SETTINGS)
def test_every_term_matters(make: Callable[..., Case], h: Hyper) -> None:
    """In the cases of `test_algorithm_2` every term makes a part of the gradient far above the tolerance."""
    case = make(h)
    ascended = algorithm_2_encoder(case.net, h, case.x, case.draws)
    assert ascended.z is not None
    decoded = algorithm_2_decoder(case.net, h, case.x, ascended.z.sample.detach(), case.draws)
    for update, of in ((ascended, case.net.phi), (decoded, case.net.theta)):
        whole = gradients(update.total, of, keep=True)
        parts = {name: gradients(part, of, keep=True) for name, part in update.parts.items()}
        shares = {name: norm(part.values()) / norm(whole.values()) for name, part in parts.items()}
        assert min(shares.values()) > 0.01, shares
        for name, gradient in whole.items():  # The parts are all there is.
            torch.testing.assert_close(sum(part[name] for part in parts.values()), gradient)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "stop_gradient": ({"stop_gradient": "reencoded"}, "encoder"),
    "gamma_r": ({"gamma_r": 0.0}, "decoder"),
    "gamma_r a tenth": ({"gamma_r": 0.03}, "decoder"),
    "alpha": ({"alpha": 1.0}, "encoder"),
    "beta_neg": ({"beta_neg": 8.1}, "encoder"),
    "beta_kl": ({"beta_kl": 0.91}, "both"),
    "beta_rec": ({"beta_rec": 0.201}, "both"),
    "s": ({"s": 0.0031}, "both"),
}


@EVERY_CASE
@pytest.mark.parametrize(("change", "seen_by"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_shows(make: Callable[..., Case], change: dict[str, Any], seen_by: str) -> None:
    """In the update that it concerns, and in that one only."""
    h = Hyper()
    case = make(h)
    ours, other = package(case, h.settings()), paper(case, replace(h, **change))
    for name in ("encoder", "decoder"):
        difference = distance(getattr(ours, name), getattr(other, name))
        if seen_by in (name, "both"):
            assert difference > 1e-4
        else:
            assert difference < TOLERANCE
    if "stop_gradient" in change:  # The same loss: its gradient alone tells the two apart.
        assert ours.encoder.loss == pytest.approx(other.encoder.loss, rel=TOLERANCE)
        apart = [ours.encoder.gradients[k] - other.encoder.gradients[k] for k in case.net.phi]
        assert norm(apart) > 0.01 * norm(other.encoder.gradients.values())


@EVERY_CASE
@pytest.mark.parametrize("wrong", ["mixing", "noise", "eps", "noise order", "eps order"])
def test_a_wrong_draw_shows(make: Callable[..., Case], wrong: str) -> None:
    case = make(Hyper())
    draws = case.draws
    assert draws.noise is not None
    other = {
        "mixing": draws._replace(mixing=None),
        "noise": draws._replace(noise=None),
        "eps": draws._replace(eps=0.99 * draws.eps),
        "noise order": draws._replace(noise=draws.noise[:, [0, 1, 3, 2]]),
        "eps order": draws._replace(eps=draws.eps[:, [0, 2, 1]]),
    }[wrong]
    ours, printed = package(case, Hyper().settings()), paper(replace(case, draws=other), Hyper())
    assert distance(ours.encoder, printed.encoder) > 1e-4
    assert distance(ours.decoder, printed.decoder) > 1e-4


def test_a_wrong_blend_shows() -> None:
    case, whole = style(Hyper()), style(Hyper(), blending=False)
    assert case.blend is not None
    ours = package(case, Hyper().settings())
    printed = paper(whole, Hyper())
    assert distance(ours.encoder, printed.encoder) > 1e-4
    assert distance(ours.decoder, printed.decoder) > 1e-4
