"""p_d* of equation 16, the minimum of KL(p_data || p_d) + gamma H(p_d), and when it satisfies Assumption 5."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from sivae_dist.theory.game import Array, Game, divergence, entropy, xlogy
from sivae_dist.theory.responses import best_decoder

STARTS = 32

_PARTS = 8
_INTERVALS = 1000
"""Into how many an interval is divided, and how many at once are too many: then `value` is not the minimum."""


class Minimum(NamedTuple):
    """The best of many ascents: p_d* [X], its value, and the value that each start reached [N]."""

    p: Array
    value: float
    values: Array


def divergence_and_entropy(game: Game, p: Array) -> Array:
    """KL(p_data || p) + gamma H(p) [...] of distributions p [..., X], of which equation 16 takes the minimum."""
    return divergence(game.data, p) + game.gamma * entropy(p)


def minimum(game: Game, starts: int = STARTS, seed: int = 0) -> Minimum:
    """p_d* by ascents from random distributions, and from p_data.

    With a single z, L_d of equation 13 is the negative of equation 16 up to a constant, so that this is the decoder's
    best response in a smaller game.
    """
    smaller = replace(game, prior=np.ones(1))
    points = np.random.default_rng(seed).dirichlet(np.ones(len(game.data)), starts)
    points[0] = (game.data + 1e-3 / len(game.data)) / (1 + 1e-3)
    best, values = best_decoder(smaller, np.ones((len(game.data), 1)), points[:, None, :])
    return Minimum(best[0], float(divergence_and_entropy(game, best[0])), -values - entropy(game.data))


def stationary(game: Game, p: Array) -> Array:
    """p_data(x) / (1 - gamma (log p(x) + H(p))) [X], which p_d* equals.

    A minimum has p_data(x) / p(x) + gamma (log p(x) + 1) equal to the same multiplier for all x; weighting with p(x)
    and summing gives the multiplier, 1 + gamma - gamma H(p).
    """
    seen = game.data > 0
    found = np.zeros_like(p)
    found[seen] = game.data[seen] / (1 - game.gamma * (np.log(p[seen]) + entropy(p)))
    return found


# A bound from below, for all distributions at once


def lower_bound(game: Game, value: float, tolerance: float = 1e-10) -> float:
    """A lower bound of equation 16's minimum that is no search but a proof, up to rounding, by branch and bound.

    `value`: the smallest value that is known; intervals that cannot be below value - tolerance are not divided further.
    Only distributions on the support of p_data matter, since moving mass from elsewhere to one of its values lowers
    both terms; and only those in the order of p_data, since swapping two values leaves the entropy as it is. So the
    value at the largest p_data is the largest; it is divided into intervals, for each of which the Lagrangian
    relaxation of sum p = 1 is bounded value by value.
    """
    data = -np.sort(-game.data[game.data > 0])
    low, high = np.array([1 / len(data)]), np.ones(1)
    bound = np.inf
    while True:
        at_least = _relaxed(data, game.gamma, low, high) - entropy(data)
        divided = at_least < value - tolerance
        if not divided.any() or len(low) > _INTERVALS:
            return float(min(bound, at_least.min()))
        bound = min(bound, at_least[~divided].min(initial=np.inf))
        ends = np.linspace(low[divided], high[divided], _PARTS + 1)
        low, high = ends[:-1].ravel(), ends[1:].ravel()


def _relaxed(data: Array, gamma: float, low: Array, high: Array) -> Array:
    """The largest found lower bound [N] of sum -(p_data + gamma p) log p for first values in [low, high] [N].

    sum phi(p) - lambda, with phi(p) = -p_data log p - gamma p log p + lambda p at its smallest in every interval, is
    such a bound for any lambda, and concave in it: halvings by the sign of its derivative, sum p - 1, find a good one.
    """
    floor = np.zeros((len(low), len(data)))
    floor[:, 0] = low
    ceiling = np.repeat(np.minimum(high, 1 - low)[:, None], len(data), 1)
    ceiling[:, 0] = high
    ceiling = np.maximum(ceiling, 1e-300)
    least, most = np.full(len(low), -1e3), np.full(len(low), 1e3)
    best = np.full(len(low), -np.inf)
    for _ in range(45):
        level = (least + most) / 2
        p, phi = _smallest(data, gamma, level[:, None], floor, ceiling)
        best = np.maximum(best, phi.sum(-1) - level)
        over = p.sum(-1) > 1
        least, most = np.where(over, level, least), np.where(over, most, level)
    return best


def _smallest(data: Array, gamma: float, level: Array, floor: Array, ceiling: Array) -> tuple[Array, Array]:
    """Where phi is smallest in [floor, ceiling], and its value there, both [N, X].

    phi is convex up to p = p_data / gamma and concave from there, so that its smallest value is at the root of its
    derivative in the convex part, or at an end.
    """
    turn = np.minimum(ceiling, data / gamma) if gamma else ceiling
    top = np.log(turn)
    # The root in y = log p of y + log(level - gamma - gamma y) - log p_data, which is concave and rises where phi is
    # convex: Newton's method from far on the left gets there without overshooting.
    y = np.minimum(np.log(data) - 60, top)
    for _ in range(100):
        slope = level - gamma - gamma * y
        safe = np.where(slope > 0, slope, 1)
        gap, rise = y + np.log(safe) - np.log(data), 1 - gamma / safe
        step = np.where((slope > 0) & (rise > 0), -gap / np.where(rise > 0, rise, 1), np.inf)
        y, last = np.minimum(y + step, top), y
        if (y - last <= 1e-15 * np.abs(y)).all():
            break
    root = np.clip(np.exp(y), floor, ceiling)
    places = np.stack((root, np.maximum(floor, 1e-300), ceiling))
    values = -xlogy(data + gamma * places, places) + level * places
    choice = values.argmin(0)[None]
    return np.take_along_axis(places, choice, 0)[0], np.take_along_axis(values, choice, 0)[0]


# Assumption 5


def margin(game: Game, p: Array) -> float:
    """The smallest p_data(x)^(1 / (alpha + 1)) - p(x) where p_data(x) > 0; Assumption 5 is that it is not negative."""
    seen = game.data > 0
    return float((game.data[seen] ** (1 / (game.alpha + 1)) - p[seen]).min())


def sufficient_gamma(game: Game) -> float:
    """A gamma up to which Assumption 5 holds for sure: (1 - max p_data^(alpha / (alpha + 1))) / H(p_data).

    Comparing p_d* with p_data in equation 16 gives H(p_d*) <= H(p_data), so `stationary` is at most p_data / (1 - gamma
    H(p_data)). inf for a p_data of a single x.
    """
    room = 1 - game.data.max() ** (game.alpha / (game.alpha + 1))
    return float(room / entropy(game.data)) if room else np.inf


def gamma_of_the_proof(game: Game) -> float:
    """The gamma that the proof of Theorem 7 arrives at: 2 (min p_data^(1 / (alpha + 1)) - p_data)^2 / H(p_data).

    Of equation 20's epsilon, as gamma H(p_data) is the epsilon of equation 18. inf for a p_data of a single x.
    """
    room = margin(game, game.data)
    return float(2 * room**2 / entropy(game.data)) if room else np.inf


def largest_gamma(game: Game, up_to: float = 4.0, steps: int = 40, starts: int = STARTS) -> float:
    """The first gamma at which Assumption 5 fails at p_d*, to 1e-6; inf if it holds at all of `steps` up to `up_to`.

    p_d* need not be continuous in gamma: at a jump across the assumption's bound it is the place of the jump.
    """

    def holds(gamma: float) -> bool:
        there = replace(game, gamma=gamma)
        return margin(there, minimum(there, starts).p) >= 0

    grid = np.linspace(0, up_to, steps + 1)[1:]
    failing = next((gamma for gamma in grid if not holds(gamma)), None)
    if failing is None:
        return np.inf
    low, high = float(failing - up_to / steps), float(failing)
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
