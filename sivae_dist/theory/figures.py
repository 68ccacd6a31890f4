"""Figures of docs/theory.md, drawn like the curves of a run."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from sivae_dist.theory.equilibrium import Pair, best_responses, gradients, random_pair
from sivae_dist.theory.game import Array, Game, divergence, entropy
from sivae_dist.theory.minimum import largest_gamma, margin, minimum
from sivae_dist.use.figures.plots import PAPER_DPI, new_figure, save_plot

ROUNDS = 40
STEPS = 2000
_GAMMAS = np.linspace(0, 1.5, 51)


def draw_all(game: Game, alphas: list[float], seed: int, folder: Path, kind: str = "png") -> list[Path]:
    """Writes the three figures and returns their paths.

    `alphas`: those whose limits `gamma` shows; `game.alpha` is that of the other figures. `kind`: png, pdf or svg.
    """
    return [
        _save(folder / f"theory-encoder.{kind}", 5, lambda figure: encoder(figure, game.alpha)),
        _save(folder / f"theory-paths.{kind}", 10, lambda figure: paths(figure, game, seed)),
        _save(folder / f"theory-gamma.{kind}", 12, lambda figure: gamma(figure, game, alphas)),
    ]


def encoder(figure: Any, alpha: float) -> None:
    """Lemma 4: an x's share of L_q over KL(q || p_d(z|x)), for several p_d(x)^(alpha + 1) / p_data(x)."""
    axes = figure.add_subplot()
    kl = np.linspace(0, 3, 301)
    for number, ratio in enumerate((0.5, 1, 2, 5)):
        best = max(0, np.log(ratio) / alpha)
        axes.plot(kl, _share(kl, ratio, alpha), color=f"C{number}", label=f"$p_d^{{α+1}} / p_{{data}}$ = {ratio:g}")
        axes.plot(best, _share(np.array(best), ratio, alpha), "o", color=f"C{number}")
    axes.plot(kl, -np.exp(-alpha * kl) / alpha, "k--", label="$p_{data}(x) = 0$, best at infinity")
    axes.set(xlabel="KL(q(z|x) || $p_d$(z|x)) in nats", ylabel="share of $L_q$, scaled", title=f"α = {alpha:g}")
    axes.legend(fontsize=8)


def paths(figure: Any, game: Game, seed: int) -> None:
    """Distances from the theorem's pair by rounds, at 0.7 and 1.4 times the gamma where Assumption 5 first fails."""
    limit = min(largest_gamma(game), 4)
    for place, factor in enumerate((0.7, 1.4), 1):
        there = replace(game, gamma=round(factor * limit, 2))
        p = minimum(there).p
        what = "holds" if margin(there, p) >= 0 else "fails"
        axes = figure.add_subplot(1, 2, place)
        rng = np.random.default_rng(seed)
        start = random_pair(there, rng)
        ways = {"best responses": best_responses(there, start, rng), "gradient": gradients(there, start)}
        for number, (name, pairs) in enumerate(ways.items()):
            errors = np.array([*_errors(there, p, islice(pairs, STEPS if number else ROUNDS))])
            rounds = np.arange(1, len(errors) + 1)
            axes.plot(rounds, errors[:, 0], color=f"C{number}", linewidth=1, label=f"$p_d$, {name}")
            axes.plot(rounds, errors[:, 1], ":", color=f"C{number}", linewidth=1, label=f"q, {name}")
        title = f"Assumption 5 {what}: α = {game.alpha:g}, γ = {there.gamma:g}"
        axes.set(xscale="log", yscale="log", ylim=(1e-15, 3), xlabel="rounds", title=title)
        axes.set(ylabel="largest |$p_d - p_d^*$|, |$q - p_d(z|x)$|")
        axes.legend(fontsize=8)


def gamma(figure: Any, game: Game, alphas: list[float]) -> None:
    """p_d* of equation 16 over gamma with the bounds of Assumption 5, its entropy, and a jump."""
    left, middle, right = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    found = np.array([minimum(replace(game, gamma=value)).p for value in _GAMMAS])
    for state in range(len(game.data)):
        left.plot(_GAMMAS, found[:, state], color=f"C{state}", label=f"x = {state + 1}")
    mode = int(game.data.argmax())
    for style, alpha in zip(cycle(("--", ":", "-.")), alphas, strict=False):
        bound, limit = game.data[mode] ** (1 / (alpha + 1)), largest_gamma(replace(game, alpha=alpha))
        left.axhline(bound, color=f"C{mode}", linestyle=style, linewidth=0.8)
        left.axvline(limit, color="grey", linestyle=style, linewidth=0.8, label=f"limit at α = {alpha:g}")
    left.set(xlabel="γ", ylabel="$p_d^*(x)$", title=f"$p_d^*$, and bounds of x = {mode + 1}")
    left.legend(fontsize=7)
    middle.plot(_GAMMAS, entropy(found), label="H($p_d^*$)")
    middle.plot(_GAMMAS, divergence(game.data, found), label="KL($p_{data}$ || $p_d^*$)")
    middle.set(xlabel="γ", ylabel="nats", title="sharper, and further away")
    middle.legend(fontsize=8)
    even = replace(game, data=np.full(4, 0.25))
    largest = [minimum(replace(even, gamma=value)).p.max() for value in _GAMMAS]
    right.plot(_GAMMAS, largest, ".", markersize=3)
    right.set(xlabel="γ", ylabel="largest $p_d^*(x)$", title="$p_{data}$ = ¼, ¼, ¼, ¼: a jump")


def _share(kl: Array, ratio: float, alpha: float) -> Array:
    """Equation 15 without its constant, divided by p_data(x)."""
    return -kl - ratio / alpha * np.exp(-alpha * kl)


def _errors(game: Game, p: Array, pairs: Iterator[Pair]) -> Iterator[tuple[float, float]]:
    for q, d in pairs:
        yield float(np.abs(game.marginal(d) - p).max()), float(np.abs(q - game.posterior(d)).max())


def _save(path: Path, width: float, draw: Callable[[Any], None]) -> Path:
    figure = new_figure(width, 3.5, dpi=PAPER_DPI)
    draw(figure)
    save_plot(path, figure)
    return path
