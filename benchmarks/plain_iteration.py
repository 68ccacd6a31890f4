"""A baseline for where the authors' code is not at hand: its iteration of Soft-IntroVAE in plain torch.

Written from its description, for what it computes and in which way (docs/paper-vs-code.md): both updates encode x and
decode z and Z_f anew, each pass alone, so that an iteration has 33 passes, forward ones and those of backward that
reach weights or inputs; every layer is the torch function that goes by its name; images and weights are fp32 in torch's
own memory format. The floating-point operations are the authors', which a test holds.
"""

import copy
import math
import random
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.models.style import StyleSettings
from sivae_dist.objectives.elbo import Beta
from sivae_dist.objectives.soft_intro import SoftIntroSettings

FOLDED_FROM = 128
"""Pixels from which on a 3x3 convolution and its resampling are one of 4x4 with stride 2."""
HALF_LIFE = 10_000
"""Half-life of the moving averages, in images."""

Posterior = tuple[Tensor, Tensor, Tensor]
"""z, mu and logvar, each [B, latent]."""


def activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


class Layer(nn.Module):
    """A weight that is learned at a rate in proportion to `std`, its initial standard deviation."""

    def __init__(self, *shape: int, gain: float = math.sqrt(2), bias: bool = True, lr_factor: float = 1.0) -> None:
        super().__init__()
        std = gain / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.randn(shape) * std)
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.rates = {"weight": std * lr_factor, "bias": lr_factor}


class Linear(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Conv(Layer):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[2] // 2)


def of_four_by_four(kernel: Tensor) -> Tensor:
    """The mean of a kernel [*, *, 3, 3] at the four places where a 2x2 mean puts it: [*, *, 4, 4]."""
    return F.avg_pool2d(F.pad(kernel, (1, 1, 1, 1)), 2, stride=1)


class Up(Layer):
    """[B, C, R/2, R/2] -> [B, *, R, R]: nearest neighbours, then 3x3."""

    def __init__(self, outputs: int, inputs: int, resolution: int) -> None:
        super().__init__(outputs, inputs, 3, 3, bias=False)
        self.folded = resolution >= FOLDED_FROM

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            kernel = 4 * of_four_by_four(self.weight.flip(2, 3).transpose(0, 1))
            return F.conv_transpose2d(x, kernel, stride=2, padding=1)
        return F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), self.weight, padding=1)


class Down(Layer):
    """[B, C, R, R] -> [B, *, R/2, R/2]: 3x3, then a mean over 2x2."""

    def __init__(self, outputs: int, inputs: int, resolution: int) -> None:
        super().__init__(outputs, inputs, 3, 3, bias=False)
        self.folded = resolution >= FOLDED_FROM

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            return F.conv2d(x, of_four_by_four(self.weight), stride=2, padding=1)
        return F.avg_pool2d(F.conv2d(x, self.weight, padding=1), 2)


class Blur(nn.Module):
    kernel: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("kernel", torch.outer(line, line).repeat(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=x.shape[1])


class Bias(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class EncoderBlock(nn.Module):
    """[B, C, R, R] -> [B, *, R/2, R/2] and a style [B, latent]."""

    def __init__(self, model: StyleSettings, resolution: int) -> None:
        super().__init__()
        inputs, outputs = model.width(resolution), model.width(resolution // 2)
        self.conv, self.bias1 = Conv(inputs, inputs, 3, 3, bias=False), Bias(inputs)
        self.blur, self.down, self.bias2 = Blur(inputs), Down(outputs, inputs, resolution), Bias(outputs)
        self.styles = nn.ModuleList(Linear(model.latent, 2 * width) for width in (inputs, outputs))

    def extract(self, x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3), keepdim=True)
        deviation = torch.sqrt((x - mean).square().mean((2, 3), keepdim=True) + 1e-8)
        style: Tensor = self.styles[layer](torch.cat((mean, deviation), dim=1).flatten(1))
        return F.instance_norm(x), style

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, first = self.extract(activate(self.bias1(self.conv(x))), 0)
        x, second = self.extract(activate(self.bias2(self.down(self.blur(x)))), 1)
        return x, first + second


class Encoder(nn.Module):
    def __init__(self, model: StyleSettings) -> None:
        super().__init__()
        latent, last = model.latent, model.encoder_mapping - 1
        self.from_rgb = nn.ModuleDict({str(r): Conv(model.width(r), model.channels, 1, 1) for r in model.resolutions})
        self.blocks = nn.ModuleDict({str(r): EncoderBlock(model, r) for r in model.resolutions})
        self.mapping = nn.ModuleList(
            Linear(latent * (1 + (layer == last)), latent, lr_factor=0.1) for layer in range(last + 1)
        )

    def forward(self, x: Tensor) -> Posterior:
        resolution = x.shape[2]
        x = activate(activate(self.from_rgb[str(resolution)](x)))
        w = torch.zeros(())
        while resolution >= 4:
            x, style = self.blocks[str(resolution)](x)
            w = w + style
            resolution //= 2
        for layer in self.mapping:
            w = activate(layer(w))
        mu, logvar = w.chunk(2, dim=1)
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu), mu, logvar


class StyledLayer(nn.Module):
    """Noise, bias, activation, and AdaIN in two steps."""

    def __init__(self, model: StyleSettings, width: int) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(width, 1, 1))
        self.bias = Bias(width)
        self.style = Linear(2 * width, model.latent, gain=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = torch.addcmul(x, self.strength, torch.randn(x.shape[0], 1, *x.shape[2:]))
        x = F.instance_norm(activate(self.bias(x)), eps=1e-8)
        scale, shift = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, x, scale + 1)


class DecoderBlock(nn.Module):
    """[B, C, R/2, R/2] -> [B, *, R, R]."""

    def __init__(self, model: StyleSettings, resolution: int) -> None:
        super().__init__()
        width, below = model.width(resolution), model.width(resolution // 2)
        first = resolution == 4
        self.up = nn.Identity() if first else nn.Sequential(Up(width, below, resolution), Blur(width))
        self.conv = Conv(width, width, 3, 3, bias=False)
        self.layers = nn.ModuleList(StyledLayer(model, width) for _ in range(2))

    def forward(self, x: Tensor, w: tuple[Tensor, Tensor]) -> Tensor:
        x = self.layers[0](self.up(x), w[0])
        x = self.layers[1](self.conv(x), w[1])
        return x


class Decoder(nn.Module):
    def __init__(self, model: StyleSettings, mixing: float) -> None:
        super().__init__()
        self.latent = latent = model.latent
        self.mixing = mixing
        self.constant = nn.Parameter(torch.ones(1, model.width(4), 4, 4))
        self.blocks = nn.ModuleDict({str(r): DecoderBlock(model, r) for r in model.resolutions})
        self.to_rgb = nn.ModuleDict(
            {str(r): Conv(model.channels, model.width(r), 1, 1, gain=0.03) for r in model.resolutions}
        )
        self.mapping = nn.ModuleList(Linear(latent, latent, lr_factor=0.1) for _ in range(model.decoder_mapping))

    def mapped(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = activate(layer(w))
        return w

    def sample(self, resolution: int, batch: int) -> Tensor:
        """X_f, whose layers from a random one on have another style with the probability `mixing`."""
        z = torch.randn(2, batch, self.latent)
        mixed = random.random() < self.mixing
        return self(z[0], resolution, z[1] if mixed else None)

    def forward(self, z: Tensor, resolution: int, other: Tensor | None = None) -> Tensor:
        sides = [side for side in (4 << k for k in range(9)) if side <= resolution]
        styles = [self.mapped(z)] * (2 * len(sides))
        if other is not None:
            cutoff = random.randrange(1, len(styles))
            styles[cutoff:] = [self.mapped(other)] * (len(styles) - cutoff)
        x: Tensor = self.constant.expand(z.shape[0], -1, -1, -1)
        for place, side in enumerate(sides):
            x = self.blocks[str(side)](x, (styles[2 * place], styles[2 * place + 1]))
        image: Tensor = self.to_rgb[str(resolution)](x)
        return image


def distance(x: Tensor, y: Tensor) -> Tensor:
    """[B]."""
    return (x - y).square().flatten(1).sum(dim=1)


def weighted(beta: Beta, mu: Tensor, logvar: Tensor) -> Tensor:
    """[B]: beta KL, in nats."""
    assert not isinstance(beta, Mapping)
    return beta * (0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(dim=1))


def optimizer_of(network: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Adam without its first moment, each weight at its own rate, one after the other."""
    layers = [module for module in network.modules() if isinstance(module, Layer)]
    rates = {parameter: layer.rates[name] for layer in layers for name, parameter in layer.named_parameters()}
    groups = [{"params": [p], "lr": lr * rates.get(p, 1.0)} for p in network.parameters()]
    return torch.optim.RMSprop(groups, alpha=0.99, foreach=False)


class PlainIteration:
    name = "plain"

    def __init__(self, model: StyleSettings, objective: SoftIntroSettings, lr: float) -> None:
        self.model, self.objective = model, objective
        self.encoder, self.decoder = Encoder(model), Decoder(model, objective.style_mixing)
        self.averages = copy.deepcopy((self.encoder, self.decoder))
        for average in self.averages:
            average.requires_grad_(False)
        self.optimizers = optimizer_of(self.encoder, lr), optimizer_of(self.decoder, lr)

    def ready(self, resolution: int, batch: int) -> Callable[[], None]:
        images = 2 * torch.rand(batch, *self.model.shape(resolution)) - 1
        share = 1 - 0.5 ** (batch / HALF_LIFE)

        def iterate() -> None:
            x = images.detach().requires_grad_()  # as theirs, although nobody uses its gradient
            for network, optimizer, loss_of in zip(
                (self.encoder, self.decoder), self.optimizers, (self.encoder_loss, self.decoder_loss), strict=True
            ):
                self.encoder.requires_grad_(network is self.encoder)
                self.decoder.requires_grad_(network is self.decoder)
                optimizer.zero_grad()
                torch.autograd.backward(loss_of(x))
                optimizer.step()
            self.average(share)

        return iterate

    def encoder_loss(self, x: Tensor) -> Tensor:
        resolution, batch = x.shape[2], x.shape[0]
        c = self.objective.weights(resolution, self.model.dimensions)
        encode, decode = self.encoder, self.decoder
        fake = decode.sample(resolution, batch)
        z, mu, logvar = encode(x)
        rec = decode(z, resolution)
        elbo = c.beta_rec * distance(x, rec) + weighted(c.beta_kl, mu, logvar)
        loss = c.scale * elbo.mean()
        for image in (rec, fake):
            z, mu, logvar = encode(image.detach())
            again = c.beta_rec * distance(image, decode(z, resolution)) + weighted(c.beta_neg, mu, logvar)
            loss = loss + 0.25 * torch.exp(-2 * c.scale * again).mean()
        return loss

    def decoder_loss(self, x: Tensor) -> Tensor:
        resolution, batch = x.shape[2], x.shape[0]
        c = self.objective.weights(resolution, self.model.dimensions)
        encode, decode = self.encoder, self.decoder
        fake = decode.sample(resolution, batch)
        z, _, _ = encode(x)
        rec = decode(z.detach(), resolution)
        loss = c.beta_rec * distance(x, rec).mean()
        for image in (rec, fake):
            z, mu, logvar = encode(image)
            again = distance(image.detach(), decode(z.detach(), resolution))
            loss = loss + 0.5 * (weighted(c.beta_kl, mu, logvar) + c.gamma_r * c.beta_rec * again).mean()
        return c.scale * loss

    @torch.no_grad()
    def average(self, share: float) -> None:
        for average, network in zip(self.averages, (self.encoder, self.decoder), strict=True):
            for kept, weight in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(weight, share)
