"""Finding the equilibrium by best responses and by gradient, and what a player gains by leaving a pair of tables."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from sivae_dist.theory.game import Array, Game, softmax
from sivae_dist.theory.responses import best_decoder, best_encoder


class Pair(NamedTuple):
    """Tables of both players: q(z|x) [X, Z] and p_d(x|z) [Z, X]."""

    q: Array
    d: Array


class Settled(NamedTuple):
    """Where a sequence of pairs ended, after how many rounds, and whether the tables had stopped to change."""

    pair: Pair
    rounds: int
    still: bool


def random_pair(game: Game, rng: np.random.Generator) -> Pair:
    """Tables whose logits are standard normal."""
    states, codes = len(game.data), len(game.prior)
    return Pair(softmax(rng.normal(size=(states, codes))), softmax(rng.normal(size=(codes, states))))


def best_responses(game: Game, start: Pair, rng: np.random.Generator, starts: int = 4) -> Iterator[Pair]:
    """The encoder answers the decoder of `start`, the decoder that encoder, and so on without end.

    Each answer of the decoder is the best of an ascent from its present table and from `starts` random ones.
    """
    d = start.d
    while True:
        q = best_encoder(game, d)
        d, _ = best_decoder(game, q, np.concatenate((d[None], random_decoders(game, rng, starts))))
        yield Pair(q, d)


def gradients(game: Game, start: Pair, rate: float = 2.0) -> Iterator[Pair]:
    """Both players at once step along the gradients of their own values by their logits, without end."""
    log_q, log_d = np.log(start.q), np.log(start.d)
    while True:
        q, d = softmax(log_q), softmax(log_d)
        yield Pair(q, d)
        log_q = log_q + rate * game.encoder_slope(q, d)
        log_d = log_d + rate * game.decoder_slope(q, d)


def settle(pairs: Iterator[Pair], rounds: int, still: float = 1e-12) -> Settled:
    """Follows a sequence until no probability changes by more than `still` from one round to the next, or to its end.

    `rounds`, at least 2, is the most that are taken. The distance from a limit is about still / (1 - r) where the
    changes shrink by a factor r a round.
    """
    last = next(pairs)
    for number, pair in enumerate(islice(pairs, rounds - 1), 2):
        if max(np.abs(pair.q - last.q).max(), np.abs(pair.d - last.d).max()) <= still:
            return Settled(pair, number, True)
        last = pair
    return Settled(last, rounds, False)


def random_decoders(game: Game, rng: np.random.Generator, count: int) -> Array:
    """[count, Z, X], uniform among all tables."""
    return rng.dirichlet(np.ones(len(game.data)), (count, len(game.prior)))


def decoder_with(game: Game, p: Array, rng: np.random.Generator, spread: float = 2.0) -> Array:
    """A random d [Z, X] with the marginal p [X], such as the d* of equation 16, of which there are many.

    Sinkhorn's iteration on a joint distribution with log-normal values; at `spread` 0 p_d(x|z) is the same for all z.
    """
    joint = np.exp(spread * rng.normal(size=(len(game.prior), len(p)))) * (p > 0)
    for _ in range(10_000):
        joint *= np.where(p > 0, p / np.where(p > 0, joint.sum(0), 1), 0)
        rows = joint.sum(1)
        joint *= (game.prior / rows)[:, None]
        if np.abs(rows - game.prior).max() <= 1e-16:
            break
    return joint / joint.sum(1, keepdims=True)


def encoder_gain(game: Game, pair: Pair) -> float:
    """By how much the best q is better than this one, in nats: exact, as the best is known in closed form."""
    best = game.encoder_value(best_encoder(game, pair.d), pair.d)
    return float(best - game.encoder_value(pair.q, pair.d))


def decoder_gain(game: Game, pair: Pair, rng: np.random.Generator, starts: int = 64) -> float:
    """By how much the best d found from the pair's own and from random ones is better than this one, in nats."""
    tables = np.concatenate((pair.d[None], random_decoders(game, rng, starts)))
    _, values = best_decoder(game, pair.q, tables)
    return float(values.max() - game.decoder_value(pair.q, pair.d))
