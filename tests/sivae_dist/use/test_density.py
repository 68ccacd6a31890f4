"""Densities of a linear model with Gaussian noise, whose marginal is known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.models import Stage
from sivae_dist.models.base import Decoder, Encoder
from sivae_dist.models.mlp import MlpSettings
from sivae_dist.use.density import elbo, log_density
from sivae_dist.use.pretrained import Pretrained

SIGMA = 0.3
ROTATION = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
WEIGHT = ROTATION * torch.tensor([1.0, 0.4])
SHIFT = torch.tensor([0.5, -0.2])


class LinearDecoder(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHT)

    def forward(self, z: Tensor, cond: object, noise: Tensor | None = None) -> Tensor:
        return z @ self.weight.T + SHIFT


class PosteriorEncoder(Encoder):
    """The true posterior, whose mean is moved by `wrong`."""

    def __init__(self, wrong: float) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor, cond: object) -> tuple[Tensor, Tensor]:
        variance = 1 / (1 + (WEIGHT.T @ WEIGHT).diag() / SIGMA**2)
        mu = (x - SHIFT) @ WEIGHT * variance / SIGMA**2 + self.wrong
        return mu, variance.log().expand_as(mu)


def model(wrong: float = 0.0) -> Pretrained:
    return Pretrained(MlpSettings(), PosteriorEncoder(wrong), LinearDecoder(), Stage(1), 0)


def grid(cells: int, half: float) -> Tensor:
    steps = (torch.arange(cells) + 0.5) / cells * 2 - 1
    return half * torch.cartesian_prod(steps, steps)


@pytest.mark.parametrize(("wrong", "error"), [(0.0, 0.25), (3.0, 0.4)])
def test_the_marginal_is_the_closed_form(wrong: float, error: float) -> None:
    """Also of an encoder that is ten of its standard deviations off, and where there is hardly any density."""
    x = grid(24, 5.0)
    covariance = WEIGHT @ WEIGHT.T + SIGMA**2 * torch.eye(2)
    want = torch.distributions.MultivariateNormal(SHIFT.double(), covariance.double()).log_prob(x.double())
    found = log_density(model(wrong), x, SIGMA)
    assert found.dtype == torch.float64 and found.isfinite().all()
    usual = want > want.max() - 4.5
    assert (found - want)[usual].abs().max() < error
    assert found.exp().sum() * (10 / 24) ** 2 == pytest.approx(1, abs=0.02)
    if not wrong:  # the encoder's own z are enough, however far out
        assert (log_density(model(), x, SIGMA, draws=256, prior_draws=1) - want).abs().max() < 0.05


def test_more_points_than_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = grid(8, 2.0)
    whole = log_density(model(), x, SIGMA, draws=4, prior_draws=16)
    monkeypatch.setattr("sivae_dist.use.density._AT_ONCE", 200)
    torch.testing.assert_close(log_density(model(), x, SIGMA, draws=4, prior_draws=16), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(elbo(model(), x, batch=5), elbo(model(), x), rtol=1e-5, atol=1e-5)


def test_the_authors_elbo() -> None:
    x = torch.tensor([[0.5, -0.2], [1.3, 0.4]])  # the middle, and one deviation of the first code from it
    mu, logvar = model().encode(x)
    by_hand = [
        -sum(0.5 * (m**2 + math.exp(v) - 1 - v) for m, v in zip(mus, logvars, strict=True))
        - sum((d - p) ** 2 for d, p in zip((WEIGHT @ torch.tensor(mus) + SHIFT).tolist(), point, strict=True))
        for mus, logvars, point in zip(mu.tolist(), logvar.tolist(), x.tolist(), strict=True)
    ]
    assert elbo(model(), x).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert mu[1].tolist() == pytest.approx([1 / (1 + SIGMA**2), 0], abs=1e-6)
