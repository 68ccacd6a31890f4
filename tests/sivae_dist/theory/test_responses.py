"""The best answers, beside grids over all answers."""

import numpy as np
import pytest

from sivae_dist.theory.equilibrium import random_decoders
from sivae_dist.theory.game import Array, Game, divergence
from sivae_dist.theory.responses import best_decoder, best_encoder


def pairs(count: int, low: Array, high: Array) -> Array:
    """Two numbers each, on a grid between the ends [2]: [count**2, 2]."""
    axes = [np.linspace(low[k], high[k], count) for k in range(2)]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)


def coins(heads: Array) -> Array:
    """Distributions of two values [..., 2] from the probabilities of the first [...]."""
    return np.stack((heads, 1 - heads), -1)


@pytest.mark.parametrize("alpha", [1, 2])
def test_no_encoder_of_a_grid_is_better(alpha: float) -> None:
    """For each x by itself, as each counts by itself; some want a KL above 0, and get it exactly."""
    game = Game([0.6, 0.3, 0.1], [0.7, 0.3], alpha)
    above = 0
    for d in random_decoders(game, np.random.default_rng(alpha), 12):
        best = best_encoder(game, d)
        value = game.encoder_value(best, d)
        kl = divergence(best, game.posterior(d))
        wanted = np.log(game.marginal(d) ** (alpha + 1) / game.data) / alpha
        for x in range(3):
            others = np.repeat(best[None], 4001, 0)
            others[:, x] = coins(np.linspace(0, 1, 4001))
            assert -1e-6 < game.encoder_value(others, d).max() - value < 1e-15
            if wanted[x] <= 0:
                assert (best[x] == game.posterior(d)[x]).all()
            elif best[x].max() < 1:
                above += 1
                assert kl[x] == pytest.approx(wanted[x], abs=1e-12)
    assert above > 5


def test_a_divergence_beyond_all_others_is_not_waited_for() -> None:
    """The encoder would like a KL of log(0.98**2 / 0.001), and the farthest z has one of log 2."""
    game = Game([0.999, 0.001], [0.5, 0.5])
    d = np.array([[0.02, 0.98], [0.02, 0.98]])
    best = best_encoder(game, d)
    assert sorted(best[1].tolist()) == [0, 1] and best[0].tolist() == [0.5, 0.5]


def test_lemma_4_fails_where_there_are_no_data() -> None:
    """Its condition speaks of the data's x alone; at another that the decoder makes, the worst q is the best."""
    game = Game([0.5, 0.5, 0], [0.5, 0.5])
    d = np.array([[0.4, 0.3, 0.3], [0.4, 0.5, 0.1]])
    assert (game.marginal(d)[:2] <= game.data[:2] ** 0.5).all()
    best, posterior = best_encoder(game, d), game.posterior(d)
    assert best[:2].tolist() == posterior[:2].tolist() and best[2].tolist() == [0, 1]
    assert game.encoder_value(best, d) > game.encoder_value(posterior, d) + 0.02
    every = np.repeat(best[None], 1001, 0)
    every[:, 2] = coins(np.linspace(0, 1, 1001))
    assert game.encoder_value(every, d).argmax() == 0
    certain = np.array([[0.5, 0.5, 0], [0.3, 0.3, 0.4]])  # z = 1 never makes x = 3, which is as bad as can be
    assert game.elbo(best_encoder(game, certain), certain)[2] == -np.inf


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_no_decoder_of_a_grid_is_better(gamma: float) -> None:
    game = Game([0.7, 0.3], [0.6, 0.4], gamma=gamma)
    rng = np.random.default_rng(3)
    starts = random_decoders(game, rng, 8)
    with_zeros = ([[1, 0], [0, 1]], [[1, 0], [1, 0]], [[1, 0], [0.5, 0.5]])
    for q in (*rng.dirichlet(np.ones(2), (2, 2)), *map(np.array, with_zeros)):
        best, values = best_decoder(game, q, starts)
        assert values.max() == game.decoder_value(q, best)
        assert (values > game.decoder_value(q, starts) - 1e-14).all()
        grid = pairs(101, np.zeros(2), np.ones(2))
        for width in (0.02, 0.0004):
            found = game.decoder_value(q, coins(grid))
            assert found.max() <= values.max() + 1e-14
            near = grid[found.argmax()]
            grid = pairs(101, np.maximum(near - width, 0), np.minimum(near + width, 1))
        assert game.decoder_value(q, coins(grid)).max() > values.max() - 1e-8


def test_without_gamma_the_decoder_answers_with_the_posterior_of_the_data() -> None:
    game = Game([0.5, 0.3, 0.2], [0.6, 0.4])
    q = np.random.default_rng(4).dirichlet(np.ones(2), 3)
    best, _ = best_decoder(game, q, random_decoders(game, np.random.default_rng(5), 1))
    joint = game.data * q.T
    assert np.abs(best - joint / joint.sum(1, keepdims=True)).max() < 1e-15
