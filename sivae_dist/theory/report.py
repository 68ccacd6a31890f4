"""What Theorems 6 and 7 claim, measured in one game: a row of the table that `python -m sivae_dist.theory` prints."""

from typing import NamedTuple

import numpy as np

from sivae_dist.theory.equilibrium import (
    Pair,
    Settled,
    best_responses,
    decoder_gain,
    decoder_with,
    encoder_gain,
    gradients,
    random_pair,
    settle,
)
from sivae_dist.theory.game import Array, Game
from sivae_dist.theory.minimum import (
    gamma_of_the_proof,
    largest_gamma,
    lower_bound,
    margin,
    minimum,
    sufficient_gamma,
)

ROUNDS = 40
"""Of best responses; those that settle need about 20."""

STEPS = 4000
"""Of the gradients; those that settle need about 500."""


class Row(NamedTuple):
    """One game. Assumption 5 holds where `margin` is not negative."""

    game: Game
    margin: float
    value: float
    """The minimum of KL(p_data || p_d) + gamma H(p_d), in nats."""
    gap: float
    """By how much a lower value is not excluded, in nats."""
    encoder_gain: float
    """By how much the encoder's best answer to a random d* is better than p_d*(z|x), in nats."""
    decoder_gain: float
    """By how much the best decoder found is better than d* against p_d*(z|x), in nats."""
    best_responses: Settled
    gradients: Settled
    p: Array
    """p_d* [X]."""

    def errors(self, settled: Settled) -> tuple[float, float]:
        """The largest |p_d(x) - p_d*(x)| and |q(z|x) - p_d(z|x)| of a pair."""
        q, d = settled.pair
        return (
            float(np.abs(self.game.marginal(d) - self.p).max()),
            float(np.abs(q - self.game.posterior(d)).max()),
        )


def measure(game: Game, seed: int = 0) -> Row:
    """All of a row; the same seed gives the same row."""
    rng = np.random.default_rng(seed)
    best = minimum(game, seed=seed)
    d = decoder_with(game, best.p, rng)
    theorem = Pair(game.posterior(d), d)
    start = random_pair(game, rng)
    return Row(
        game,
        margin(game, best.p),
        best.value,
        best.value - lower_bound(game, best.value),
        encoder_gain(game, theorem),
        decoder_gain(game, theorem, rng),
        settle(best_responses(game, start, rng), ROUNDS),
        settle(gradients(game, start), STEPS),
        best.p,
    )


HEADER = (
    "| alpha | gamma | margin | KL + γH | gap | encoder gains | decoder gains "
    "| answers | of p_d | of q | steps | of p_d | of q |\n" + "|---" * 13 + "|"
)


def line(row: Row) -> str:
    """A row of a Markdown table under HEADER."""
    cells = [f"{row.game.alpha:g}", f"{row.game.gamma:g}", f"{row.margin:+.4f}", f"{row.value:.6f}"]
    cells += [_tiny(row.gap), _tiny(row.encoder_gain), _tiny(row.decoder_gain)]
    for settled in (row.best_responses, row.gradients):
        cells.append(f"{settled.rounds:,}" if settled.still else f"{settled.rounds:,}, not still")
        cells += [_tiny(error) for error in row.errors(settled)]
    return f"| {' | '.join(cells)} |"


def gammas(game: Game) -> str:
    """A sentence on Theorem 7 in the game's p_data and alpha."""
    return (
        f"alpha {game.alpha:g}: Assumption 5 holds up to gamma {largest_gamma(game):.4f}; "
        f"guaranteed up to {sufficient_gamma(game):.4f}, by the paper's proof up to {gamma_of_the_proof(game):.4f}."
    )


def _tiny(value: float) -> str:
    """Differences below 1e-15 are rounding."""
    return "0" if abs(value) < 1e-15 else f"{value:.0e}"
