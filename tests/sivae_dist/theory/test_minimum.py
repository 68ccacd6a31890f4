"""p_d* of equation 16 beside a grid, its lower bound, and Theorem 7."""

from dataclasses import replace

import numpy as np
import pytest

from sivae_dist.theory.game import Array, Game, divergence, entropy
from sivae_dist.theory.minimum import (
    divergence_and_entropy,
    gamma_of_the_proof,
    largest_gamma,
    lower_bound,
    margin,
    minimum,
    stationary,
    sufficient_gamma,
)

EXAMPLE = Game([0.4, 0.25, 0.15, 0.12, 0.08], [1])


def triples(steps: int) -> Array:
    """All positive distributions of three values in steps of 1 / steps."""
    first, second = np.meshgrid(np.arange(1, steps), np.arange(1, steps))
    keep = first + second < steps
    return np.stack((first[keep], second[keep], steps - first[keep] - second[keep]), -1) / steps


@pytest.mark.parametrize("gamma", [0.3, 1, 3])
@pytest.mark.parametrize("data", [[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.7, 0.2, 0.1]])
def test_no_distribution_of_a_grid_is_better(data: list[float], gamma: float) -> None:
    game = Game(data, [1], gamma=gamma)
    best = minimum(game)
    values = divergence_and_entropy(game, triples(300))
    assert best.value <= values.min() < best.value + 3e-3
    assert np.abs(best.p - triples(300)[values.argmin()]).max() < 0.01
    bound = lower_bound(game, best.value)
    assert best.value - 1e-9 < bound < best.value + 1e-13


@pytest.mark.parametrize("gamma", [0, 0.5, 1.5, 4])
def test_the_minimum_has_the_closed_form(gamma: float) -> None:
    game = replace(EXAMPLE, gamma=gamma)
    best = minimum(game)
    assert np.abs(best.p - stationary(game, best.p)).max() < 1e-12
    assert best.values.min() == pytest.approx(best.value, abs=1e-13)
    assert best.value - lower_bound(game, best.value) < 1e-9
    if gamma == 0:
        assert np.abs(best.p - game.data).max() < 1e-14


def test_the_bound_is_below_a_minimum_that_is_only_local() -> None:
    game = replace(EXAMPLE, gamma=2)
    values = minimum(game).values
    local = values[values > values.min() + 0.1]
    assert len(local) and values.min() - 0.1 < lower_bound(game, local.max()) <= values.min() + 1e-13


def test_what_is_not_in_the_data_is_not_made() -> None:
    """So the part of Lemma 4 that fails does not touch Theorem 6."""
    for gamma in (0, 0.3, 2):
        game = Game([0.5, 0, 0.3, 0.2], [1], gamma=gamma)
        best = minimum(game)
        without = minimum(Game([0.5, 0.3, 0.2], [1], gamma=gamma))
        assert best.p[1] < 1e-30 and best.value == pytest.approx(without.value, abs=1e-13)
        assert best.value - lower_bound(game, best.value) < 1e-9


def test_gamma_sharpens() -> None:
    found = np.array([minimum(replace(EXAMPLE, gamma=gamma)).p for gamma in (0, 0.1, 0.3, 0.6, 1, 2, 5)])
    assert (np.diff(entropy(found)) < -0.03).all()
    assert (np.diff(divergence(EXAMPLE.data, found)) > 0.001).all()
    assert (found.argmax(1) == 0).all() and found[-1, 0] > 0.95


def test_the_minimum_can_jump() -> None:
    """Its value is continuous in gamma, but not where it is attained: both are minima at one gamma."""
    even = Game([0.25] * 4, [1])
    low, high = 0.9, 1.0
    while high - low > 1e-2:
        middle = (low + high) / 2
        low, high = (middle, high) if minimum(replace(even, gamma=middle), starts=8).p.max() < 0.26 else (low, middle)
    before, after = (minimum(replace(even, gamma=gamma), starts=8) for gamma in (low, high))
    assert np.abs(before.p - 0.25).max() < 1e-6 and after.p.max() > 0.45
    assert 0 <= after.value - before.value <= (high - low) * np.log(4)


@pytest.mark.parametrize("alpha", [1, 2])
def test_theorem_7(alpha: float) -> None:
    rng = np.random.default_rng(alpha)
    spreads = (0.2, 1, 5)
    examples = [rng.dirichlet(np.full(size, spread)) + 1e-9 for size in (2, 4, 7) for spread in spreads]
    for data in (one / one.sum() for one in examples):
        game = Game(data, [1], alpha)
        assert min(gamma_of_the_proof(game), sufficient_gamma(game)) > 0
        for gamma in (gamma_of_the_proof(game), sufficient_gamma(game)):
            there = replace(game, gamma=gamma)
            best = minimum(there, starts=8)
            assert best.value - lower_bound(there, best.value) < 1e-9
            assert margin(there, best.p) >= 0
    assert sufficient_gamma(Game([1, 0], [1])) == gamma_of_the_proof(Game([1, 0], [1])) == np.inf


def test_the_largest_gamma_is_where_the_bound_is_met() -> None:
    for alpha in (1, 2):
        game = replace(EXAMPLE, alpha=alpha)
        limit = largest_gamma(game, up_to=1, steps=10, starts=8)
        assert gamma_of_the_proof(game) < sufficient_gamma(game) < limit
        at = minimum(replace(game, gamma=limit)).p[0]
        assert at == pytest.approx(0.4 ** (1 / (alpha + 1)), abs=1e-5)
        assert margin(game, minimum(replace(game, gamma=limit + 0.01)).p) < 0
    assert largest_gamma(EXAMPLE, up_to=0.1, steps=2) == np.inf
