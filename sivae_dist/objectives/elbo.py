"""The KL term of the ELBO, per sample, and the reparameterization trick. All in fp32 or wider.

The other term is a distance (distances.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import torch
from torch import Tensor

Beta = float | Mapping[str, float]
"""A weight of the KL divergence: one for all of z, or one for each of its groups, by name."""


def of_each(function: Callable[..., float], *betas: Beta) -> Beta:
    """The function of these values, of each group if any of them has groups."""
    names = next((list(beta) for beta in betas if isinstance(beta, Mapping)), None)
    if names is None:
        return function(*betas)
    return {name: function(*(beta[name] if isinstance(beta, Mapping) else beta for beta in betas)) for name in names}


def shown(beta: Beta, form: str = "g") -> str:
    """`1`, or `class 1, content 2`."""
    if isinstance(beta, Mapping):
        return ", ".join(f"{name} {value:{form}}" for name, value in beta.items())
    return f"{beta:{form}}"


@dataclass(frozen=True)
class Divergence:
    """The KL divergence of codes from the prior, in nats."""

    groups: Mapping[str, Tensor]
    """Of each group of z, [B], by its name; the name is empty where z has no groups."""

    @property
    def total(self) -> Tensor:
        """Of all of z, [B]."""
        return reduce(add, self.groups.values())

    def weighted(self, beta: Beta) -> Tensor:
        """beta KL, [B]; with a beta for each group the sum over groups of beta_g KL_g (appendix 9.3)."""
        if isinstance(beta, Mapping):
            return reduce(add, (beta[name] * kl for name, kl in self.groups.items()))
        return beta * self.total

    def halves(self) -> tuple[Self, Self]:
        """Those of the two kinds of samples in a pass of 2B."""
        pairs = {name: kl.chunk(2) for name, kl in self.groups.items()}
        first, second = ({name: pair[k] for name, pair in pairs.items()} for k in (0, 1))
        return type(self)(first), type(self)(second)

    def terms(self, kind: str) -> dict[str, Tensor]:
        """Means over the batch, to be logged: `kl/KIND`, and `kl/KIND/GROUP` for each group with a name."""
        named = {f"kl/{kind}/{name}": kl.mean() for name, kl in self.groups.items() if name}
        return {f"kl/{kind}": self.total.mean()} | named


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, exp(logvar)) || N(0, I)) in nats, summed over the latent: [B, D] and [B, D] -> [B]."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1)


def divergence(mu: Tensor, logvar: Tensor, groups: Mapping[str, int]) -> Divergence:
    """KL of [B, latent] by `groups`, whose dimensions stand one after the other in z; none: all of z is one."""
    if not groups:
        return Divergence({"": kl_divergence(mu, logvar)})
    sizes = list(groups.values())
    parts = zip(groups, mu.split(sizes, 1), logvar.split(sizes, 1), strict=True)
    return Divergence({name: kl_divergence(a, b) for name, a, b in parts})


def reparameterize(mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
    """A sample of N(mu, exp(logvar)) from `eps` ~ N(0, I); all [B, D]."""
    return mu + eps * torch.exp(0.5 * logvar)


def terms_of_real(x: Tensor, error: Tensor, kl: Divergence, elbo: Tensor) -> dict[str, Tensor]:
    """Terms that every objective logs about the real images x [B, C, R, R]; error and elbo are [B]."""
    return {
        "reconstruction/real": error.mean(),
        "reconstruction/per_value": error.mean() / x[0].numel(),
        **kl.terms("real"),
        "elbo/real": elbo.mean(),
    }
