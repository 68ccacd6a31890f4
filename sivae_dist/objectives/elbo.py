"""The KL term of the ELBO, per sample, and the reparameterization trick. All in fp32 or wider.

The other term is a distance (distances.py).
"""

import torch
from torch import Tensor


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latent: [B, D] and [B, D] -> [B]."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A sample of N(mu, exp(logvar)) from `eps` ~ N(0, I); all [B, D]."""
    return mu + eps * torch.exp(0.5 * logvar)


def terms_of_real(x: Tensor, error: Tensor, kl: Tensor, elbo: Tensor) -> dict[str, Tensor]:
    """Terms that every objective logs about the real images x [B, C, R, R]; the other arguments are [B]."""
    return {
        "reconstruction/real": error.mean(),
        "reconstruction/per_value": error.mean() / x[0].numel(),
        "kl/real": kl.mean(),
        "elbo/real": elbo.mean(),
    }
