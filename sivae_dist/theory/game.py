"""The game of appendix 9.6 between an encoder and a decoder that are tables of probabilities (equations 8 to 13).

x is one of X values and z one of Z. The encoder is q [X, Z], rows q(z|x); the decoder is d [Z, X], rows p_d(x|z). Both
may have leading dimensions: many tables at once. All is in nats and float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_SUM = 1e-12
"""How far a sum of probabilities may be from 1."""


@dataclass(frozen=True, eq=False)
class Game:
    """What the players cannot change.

    `data`: p_data(x) [X], which may have zeros; `prior`: p(z) [Z], positive; `alpha` > 0 and `gamma` >= 0 as in
    equation 12. ValueError for anything else.
    """

    data: Array
    prior: Array
    alpha: float = 1.0
    gamma: float = 0.0

    def __post_init__(self) -> None:
        for name in ("data", "prior"):
            object.__setattr__(self, name, distribution(getattr(self, name), name))
        if not (self.prior > 0).all():
            raise ValueError("prior must be positive: a z that never occurs can be left out")
        if not (np.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha is {self.alpha}; it must be positive")
        if not (np.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma is {self.gamma}; it must not be negative")

    def marginal(self, d: Array) -> Array:
        """p_d(x) [..., X], the mean of p_d(x|z) over the prior."""
        return self.prior @ d

    def posterior(self, d: Array) -> Array:
        """p_d(z|x) [..., X, Z] by Bayes' rule; the prior at an x that the decoder never makes, where it has none."""
        joint = np.swapaxes(d, -1, -2) * self.prior
        total = joint.sum(-1, keepdims=True)
        return np.where(total > 0, joint / np.where(total > 0, total, 1), self.prior)

    def elbo(self, q: Array, d: Array) -> Array:
        """W(x; d, q) [..., X] of equation 8; -inf where q(z|x) > 0 and p_d(x|z) = 0."""
        joint = np.swapaxes(d, -1, -2) * self.prior
        return (xlogy(q, joint) - xlogy(q, q)).sum(-1)

    def encoder_value(self, q: Array, d: Array) -> Array:
        """L_q(q, d) [...] of equation 13, which the encoder wants to be large."""
        elbo = self.elbo(q, d)
        fakes = (self.marginal(d) * np.exp(self.alpha * elbo)).sum(-1)
        return _mean(self.data, elbo) - fakes / self.alpha

    def decoder_value(self, q: Array, d: Array) -> Array:
        """L_d(q, d) [...] of equation 13, which the decoder wants to be large."""
        elbo = self.elbo(q, d)
        real = _mean(self.data, elbo)
        return real + self.gamma * _mean(self.marginal(d), elbo) if self.gamma else real  # 0 of -inf is nothing

    def encoder_slope(self, q: Array, d: Array) -> Array:
        """Derivatives of L_q by the encoder's logits [..., X, Z], of which q is the softmax; d must be positive."""
        weight = self.data - self.marginal(d) * np.exp(self.alpha * self.elbo(q, d))
        log_ratio = np.log(np.swapaxes(d, -1, -2) * self.prior) - np.log(np.where(q > 0, q, 1))
        return _through_softmax(q, weight[..., None] * log_ratio)

    def decoder_slope(self, q: Array, d: Array) -> Array:
        """Derivatives of L_d by the decoder's logits [..., Z, X], of which d is the softmax; d must be positive."""
        weight = self.data + self.gamma * self.marginal(d)
        raised = np.swapaxes(weight[..., None] * q, -1, -2) / d
        moved = self.gamma * self.prior[:, None] * self.elbo(q, d)[..., None, :]
        return _through_softmax(d, raised + moved)


def distribution(values: ArrayLike, name: str) -> Array:
    """A vector of probabilities. ValueError unless its values are finite, not negative, and sum to 1 up to 1e-12."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all() or (found < 0).any():
        raise ValueError(f"{name} must be a list of probabilities")
    if abs(found.sum() - 1) > _SUM:
        raise ValueError(f"{name} sums to {found.sum():.15g}; probabilities sum to 1")
    return found


def xlogy(x: Array, y: Array) -> Array:
    """x log y, and 0 where x is 0, as in the limit."""
    with np.errstate(divide="ignore"):
        return x * np.log(np.where(x > 0, y, 1))


def entropy(p: Array) -> Array:
    """H(p) [...] of distributions [..., X], in nats."""
    return -xlogy(p, p).sum(-1)


def divergence(p: Array, r: Array) -> Array:
    """KL(p || r) [...] of distributions [..., X], in nats; inf where p has mass and r has none. Never below 0."""
    return np.maximum((xlogy(p, p) - xlogy(p, r)).sum(-1), 0)


def softmax(logits: Array) -> Array:
    """Probabilities [..., X] of logits [..., X]."""
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def _mean(weights: Array, values: Array) -> Array:
    """The sum of weights times values, where a weight of 0 counts as nothing even if the value is -inf."""
    return (weights * np.where(weights > 0, values, 0)).sum(-1)


def _through_softmax(p: Array, slope: Array) -> Array:
    return p * (slope - (p * slope).sum(-1, keepdims=True))
