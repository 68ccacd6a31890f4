"""Equations 8 to 13 beside loops over every x and z."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from sivae_dist.theory.game import Array, Game, divergence, entropy, softmax


def tables(game: Game, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    states, codes = len(game.data), len(game.prior)
    return rng.dirichlet(np.ones(codes), states), rng.dirichlet(np.ones(states), codes)


def elbo(game: Game, q: Array, d: Array, x: int) -> float:
    """Equation 8."""
    codes = range(len(game.prior))
    likelihood = sum(q[x, z] * math.log(d[z, x]) for z in codes)
    return likelihood - sum(q[x, z] * math.log(q[x, z] / game.prior[z]) for z in codes)


def generated(game: Game, d: Array, value: Callable[[int], float]) -> float:
    """The mean of a value of D(z) over z from the prior, as on the left of equations 9 and 10."""
    return sum(p * sum(d[z, x] * value(x) for x in range(len(game.data))) for z, p in enumerate(game.prior))


@pytest.mark.parametrize(("alpha", "gamma"), [(1, 0.3), (2, 0), (1.5, 2)])
def test_values_are_those_of_the_equations(alpha: float, gamma: float) -> None:
    game = Game([0.5, 0.3, 0.15, 0.05], [0.6, 0.3, 0.1], alpha, gamma)
    for seed in range(5):
        q, d = tables(game, seed)
        real = sum(p * elbo(game, q, d, x) for x, p in enumerate(game.data))
        pushed = generated(game, d, lambda x, q=q, d=d: math.exp(alpha * elbo(game, q, d, x)))
        pulled = generated(game, d, lambda x, q=q, d=d: elbo(game, q, d, x))
        assert game.encoder_value(q, d) == pytest.approx(real - pushed / alpha, abs=1e-14)
        assert game.decoder_value(q, d) == pytest.approx(real + gamma * pulled, abs=1e-14)


def test_the_elbo_misses_the_likelihood_by_the_divergence_of_the_posterior() -> None:
    """Equation 11."""
    game = Game([0.5, 0.3, 0.2], [0.7, 0.3])
    q, d = tables(game, 1)
    joint = (game.prior[:, None] * d).T
    posterior = joint / joint.sum(1, keepdims=True)
    assert np.abs(game.posterior(d) - posterior).max() < 1e-15
    gap = (q * np.log(q / posterior)).sum(1)
    assert np.abs(game.elbo(q, d) - (np.log(joint.sum(1)) - gap)).max() < 1e-14
    assert np.abs(game.elbo(posterior, d) - np.log(game.marginal(d))).max() < 1e-14


@pytest.mark.parametrize(("alpha", "gamma"), [(1, 0.3), (2, 1.5)])
def test_slopes_are_the_derivatives(alpha: float, gamma: float) -> None:
    game = Game([0.5, 0.3, 0.2], [0.7, 0.3], alpha, gamma)
    rng = np.random.default_rng(2)
    log_q, log_d = rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    q, d = softmax(log_q), softmax(log_d)
    for logits, slope, value in (
        (log_q, game.encoder_slope(q, d), lambda logits: game.encoder_value(softmax(logits), d)),
        (log_d, game.decoder_slope(q, d), lambda logits: game.decoder_value(q, softmax(logits))),
    ):
        for place in np.ndindex(*logits.shape):
            nudge = np.zeros_like(logits)
            nudge[place] = 1e-5
            measured = (value(logits + nudge) - value(logits - nudge)) / 2e-5
            assert slope[place] == pytest.approx(measured, abs=1e-9)


def test_zeros_count_as_in_the_limit() -> None:
    game = Game([0.6, 0.4, 0], [0.5, 0.5], gamma=1)
    d = np.array([[0.5, 0.5, 0], [0.5, 0, 0.5]])
    q = np.array([[0.5, 0.5], [1, 0], [0.5, 0.5]])  # no z of x = 2 is wrong; half of those of x = 3 are
    assert game.elbo(q, d).tolist()[2] == -np.inf
    real = 0.6 * math.log(0.5) + 0.4 * math.log(0.25)
    assert game.encoder_value(q, d) == pytest.approx(real - 0.5 * 0.5 - 0.25 * 0.25)
    assert game.decoder_value(q, d) == -np.inf  # a quarter of what it makes is x = 3
    never = np.array([[0.5, 0.5, 0], [1, 0, 0]])
    assert game.posterior(never)[2].tolist() == [0.5, 0.5]
    assert np.isfinite(game.decoder_value(game.posterior(never), never))
    assert entropy(np.array([0.5, 0.5, 0])) == pytest.approx(math.log(2))
    assert divergence(np.array([1.0, 0]), np.array([0, 1.0])) == np.inf


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": [0.5, 0.6]}, "data sums to 1.1; probabilities sum to 1"),
        ({"data": [1.5, -0.5]}, "data must be a list of probabilities"),
        ({"prior": [1, 0]}, "prior must be positive"),
        ({"alpha": 0}, "alpha is 0; it must be positive"),
        ({"gamma": -1}, "gamma is -1; it must not be negative"),
    ],
)
def test_what_is_no_game_is_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Game(**({"data": [0.5, 0.5], "prior": [0.5, 0.5], "alpha": 1, "gamma": 0} | changed))
