"""Theorem 6, for alpha 1 and 2; what happens without its assumption; and equilibria of which it does not speak."""

from dataclasses import replace

import numpy as np
import pytest

from sivae_dist.theory.equilibrium import (
    Pair,
    best_responses,
    decoder_gain,
    decoder_with,
    encoder_gain,
    gradients,
    random_decoders,
    random_pair,
    settle,
)
from sivae_dist.theory.game import Game
from sivae_dist.theory.minimum import lower_bound, margin, minimum, sufficient_gamma

EXAMPLE = Game([0.4, 0.25, 0.15, 0.12, 0.08], [0.5, 0.3, 0.2])
NO_GAIN = 1e-9


def gains(game: Game, pair: Pair) -> tuple[float, float]:
    """Of the encoder and of the decoder, which starts from 17 tables."""
    return encoder_gain(game, pair), decoder_gain(game, pair, np.random.default_rng(9), 16)


@pytest.mark.parametrize(("alpha", "gamma"), [(1, 0), (1, 0.3), (2, 0.3), (2, 0.6)])
def test_both_ways_lead_to_the_equilibrium_of_theorem_6(alpha: float, gamma: float) -> None:
    game = replace(EXAMPLE, alpha=alpha, gamma=gamma)
    p = minimum(game).p
    assert margin(game, p) > 0
    rng = np.random.default_rng(1)
    start = random_pair(game, rng)
    for pairs, rounds in ((best_responses(game, start, rng, 2), 100), (gradients(game, start), 3000)):
        pair, _, still = settle(pairs, rounds)
        assert still
        assert np.abs(game.marginal(pair.d) - p).max() < 1e-9
        assert np.abs(pair.q - game.posterior(pair.d)).max() < 1e-9
        assert np.abs(game.elbo(pair.q, pair.d) - np.log(p)).max() < 1e-8  # the end of Lemma 4
        assert max(gains(game, pair)) < NO_GAIN


@pytest.mark.parametrize("alpha", [1, 2])
def test_no_player_gains_by_leaving_any_d_star(alpha: float) -> None:
    """Searched for, and for the decoder proved: what it can gain is at most the gap of equation 16's lower bound."""
    rng = np.random.default_rng(alpha)
    for states, codes in ((3, 2), (4, 4), (2, 3)):
        data, prior = rng.dirichlet(np.full(states, 2.0)), rng.dirichlet(np.full(codes, 2.0))
        game = Game(data / data.sum(), prior / prior.sum(), alpha)
        game = replace(game, gamma=sufficient_gamma(game))
        best = minimum(game)
        assert best.value - lower_bound(game, best.value) < NO_GAIN
        for spread in (0, 1, 4):
            d = decoder_with(game, best.p, rng, spread)
            assert np.abs(game.marginal(d) - best.p).max() < 1e-15
            pair = Pair(game.posterior(d), d)
            assert max(gains(game, pair)) < NO_GAIN
            if spread == 0:  # a code that says nothing is as good
                assert np.abs(pair.q - game.prior).max() < 1e-12


@pytest.mark.parametrize("alpha", [1, 2])
def test_no_table_of_a_grid_is_better(alpha: float) -> None:
    game = Game([0.6, 0.4], [0.7, 0.3], alpha, 0.25)
    d = decoder_with(game, minimum(game).p, np.random.default_rng(0), 1)
    pair = Pair(game.posterior(d), d)
    for width in (1, 1e-2, 1e-4):
        for name, table in (("q", pair.q), ("d", pair.d)):
            axes = [np.clip(heads + width * np.linspace(-1, 1, 201), 0, 1) for heads in table[:, 0]]
            heads = np.stack(np.meshgrid(*axes), -1)
            others = np.stack((heads, 1 - heads), -1)
            if name == "q":
                gain = game.encoder_value(others, d).max() - game.encoder_value(pair.q, d)
            else:
                gain = game.decoder_value(pair.q, others).max() - game.decoder_value(pair.q, d)
            assert -1e-15 <= gain < 1e-14


def test_without_the_assumption_the_pair_is_no_equilibrium() -> None:
    """At alpha 1 and gamma 0.6; with alpha 2 the same d* satisfies it."""
    for alpha, gamma, holds in ((1, 0.6, False), (2, 0.6, True), (1, 0.8, False), (2, 0.8, False)):
        game = replace(EXAMPLE, alpha=alpha, gamma=gamma)
        p = minimum(game).p
        assert (margin(game, p) >= 0) is holds
        d = decoder_with(game, p, np.random.default_rng(2))
        pair = Pair(game.posterior(d), d)
        ratio = p[0] ** (alpha + 1) / game.data[0]  # of the only x that offends
        # Equation 15 at its maximum, less its value at a KL of 0.
        expected = game.data[0] * (ratio - 1 - np.log(ratio)) / alpha if ratio > 1 else 0
        found, decoder = gains(game, pair)
        assert found == pytest.approx(expected, abs=1e-13) and (found > 1e-5) is not holds
        assert decoder < NO_GAIN  # that half of the theorem needs no assumption


def test_without_the_assumption_play_stays_away() -> None:
    """Best responses go round; the gradient holds p_d of x = 1 near p_data^(1/2), below p_d*, with another q."""
    game = replace(EXAMPLE, gamma=0.8)
    p = minimum(game).p
    rng = np.random.default_rng(3)
    start = random_pair(game, rng)
    answers = settle(best_responses(game, start, rng, 1), 12)
    assert not answers.still and encoder_gain(game, answers.pair) > 1e-4
    (q, d), _, _ = settle(gradients(game, start), 3000)
    made = game.marginal(d)
    assert abs(made[0] - 0.4**0.5) < 0.02 and p[0] > 0.74
    assert np.abs(q - game.posterior(d))[0].max() > 0.03


def test_a_code_without_overlap_needs_no_assumption() -> None:
    """If every z makes one x alone, any other q has an infinite KL, so that the encoder cannot push."""
    game = replace(EXAMPLE, gamma=0.8)
    p = minimum(game).p
    game = replace(game, prior=p)
    assert margin(game, p) < 0
    assert max(gains(game, Pair(np.eye(5), np.eye(5)))) < NO_GAIN


def test_there_are_other_equilibria() -> None:
    """Where each x has a z of its own, p_d is the prior instead of p_d*. Theorem 6 promises one equilibrium of many."""
    game = Game([0.6, 0.4], [0.5, 0.5], gamma=0.2)
    best = minimum(game)
    pair = Pair(np.eye(2), np.eye(2))
    assert margin(game, best.p) > 0 and np.abs(game.marginal(pair.d) - best.p).max() > 0.1
    assert max(gains(game, pair)) < NO_GAIN
    there = decoder_with(game, best.p, np.random.default_rng(0))
    assert game.decoder_value(game.posterior(there), there) > game.decoder_value(*pair) + 0.01
    # Play from near it leaves, as with any overlap p_d can move and q follows.
    near = Pair(np.array([[0.99, 0.01], [0.01, 0.99]]), np.array([[0.99, 0.01], [0.01, 0.99]]))
    (_, d), _, still = settle(gradients(game, near), 5000)
    assert still and np.abs(game.marginal(d) - best.p).max() < 1e-9


def test_a_search_notices_what_can_be_gained() -> None:
    game = replace(EXAMPLE, gamma=0.3)
    d = random_decoders(game, np.random.default_rng(6), 1)[0]
    q = game.posterior(d)
    found = gains(game, Pair(np.roll(q, 1, 0), d))
    assert min(found) > 0.01
    assert gains(game, Pair(q, d))[1] > 0.01
