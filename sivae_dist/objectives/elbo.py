"""The two terms of the ELBO, per sample, and the reparameterization trick. All in fp32 or wider."""

from typing import Literal

import torch
from torch import Tensor

Reconstruction = Literal["mse", "l1", "bce"]

PROBABILITY_EPS = 1e-6


def reconstruction_error(target: Tensor, output: Tensor, kind: Reconstruction) -> Tensor:
    """L_rec of Algorithm 2, summed over an image: [B, ...] and [B, ...] -> [B].

    `mse` is the squared error, `l1` the absolute one, `bce` the cross entropy (nats) of pixels read as
    probabilities (x + 1) / 2, which needs both inside [-1, 1]. Gradients reach both arguments.
    """
    if kind == "mse":
        error = (output - target).square()
    elif kind == "l1":
        error = (output - target).abs()
    else:
        probability = ((output + 1) / 2).clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS)
        truth = (target + 1) / 2
        error = -(truth * probability.log() + (1 - truth) * torch.log1p(-probability))
    return error.flatten(1).sum(1)


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latent: [B, D] and [B, D] -> [B]."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A sample of N(mu, exp(logvar)) from `eps` ~ N(0, I); all [B, D]."""
    return mu + eps * torch.exp(0.5 * logvar)


def terms_of_real(x: Tensor, error: Tensor, kl: Tensor, elbo: Tensor) -> dict[str, Tensor]:
    """What every objective tells of the real images x [B, C, R, R]; the others are [B]."""
    return {
        "reconstruction/real": error.mean(),
        "reconstruction/per_value": error.mean() / x[0].numel(),
        "kl/real": kl.mean(),
        "elbo/real": elbo.mean(),
    }
