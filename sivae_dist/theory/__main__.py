"""`python -m sivae_dist.theory`: the table and figures of docs/theory.md, for any p_data, prior, alpha and gamma."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sivae_dist.theory.game import Game
from sivae_dist.theory.report import HEADER, gammas, line, measure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m sivae_dist.theory", description=__doc__)
    parser.add_argument("--data", type=float, nargs="+", default=[0.4, 0.25, 0.15, 0.12, 0.08], help="p_data(x)")
    parser.add_argument("--prior", type=float, nargs="+", default=[0.5, 0.3, 0.2], help="p(z)")
    parser.add_argument("--alpha", type=float, nargs="+", default=[1.0, 2.0], help="of equation 12; positive")
    parser.add_argument("--gamma", type=float, nargs="+", default=[0.0, 0.2, 0.4, 0.6, 0.8], help="not negative")
    parser.add_argument("--seed", type=int, default=0, help="of the starts, and of the random d*")
    parser.add_argument("--out", type=Path, help="a folder for the figures, which show the first alpha")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png", help="of the figures")
    options = parser.parse_args(arguments)
    try:
        games = [Game(options.data, options.prior, alpha, gamma) for alpha in options.alpha for gamma in options.gamma]
    except ValueError as error:
        parser.error(str(error))
    print(HEADER)
    for game in games:
        print(line(measure(game, options.seed)), flush=True)
    for alpha in options.alpha:
        print(gammas(Game(options.data, options.prior, alpha)), flush=True)
    if options.out:
        from sivae_dist.theory import figures

        options.out.mkdir(parents=True, exist_ok=True)
        for path in figures.draw_all(games[0], options.alpha, options.seed, options.out, options.format):
            print(path)


if __name__ == "__main__":
    main()
