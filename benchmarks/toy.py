"""CPU time of an iteration on points in the plane, beside the authors' code: the table of docs/performance.md.

    python -m benchmarks.toy [--authors CLONE] [--rounds 100] [--threads 1] [--out FILE]

An iteration is all that training does for a batch of 512 points: drawing them, both updates with their checks, the
guard and the averages. The authors' is that of their own training function, unpatched, from a clone of
taldatech/soft-intro-vae-pytorch, with their networks of four hidden layers. Ours, with as many and with three, take
turns with it in one process; the table has medians over the rounds. The last column compares the rate of an iteration's
products of matrices, by their floating-point operations, with that of products of 512 x 256 x 256 alone, measured in
the same rounds.
"""

import argparse
import importlib
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import commit, report
from data_pipelines.dataset import Request
from sivae_dist.config.run_settings import load_config
from sivae_dist.step.guard import Guard
from sivae_dist.train.iteration import Iteration
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import Tracker
from sivae_dist.train.trainer import make_schedule

FOLDER, MODULE = "soft_intro_vae_2d", "train_soft_intro_vae_2d"
BATCH, WIDTH = 512, 256
GOAL = 2.0
"""How many times as fast as the authors' an iteration should be, at least."""
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}
SET = "8gaussians"
OURS = {
    "Soft-IntroVAE, 4 hidden layers": ("soft_intro", ["model.hidden_layers=4", "objective.stop_gradient=reencoded"]),
    "Soft-IntroVAE": ("soft_intro", []),
    "IntroVAE": ("intro", []),
    "VAE": ("vae", []),
}
"""By what they are: the configuration's ending and its changes. The first is what the authors' is compared with."""

Iterate = Callable[[], None]


class Toy:
    """Iterations of one of the package's configurations, behind its warm-up."""

    def __init__(self, name: str, changes: list[str]) -> None:
        settings = load_config(f"toy/{SET}_{name}", ["device=cpu", *changes])
        device = torch.device("cpu")
        self._data = settings.data.open(settings.seed, device)
        self._players = Players(settings, device)
        self._guard = Guard(settings.guard, device)
        self._iteration = Iteration(settings, self._players, self._guard, device)
        schedule = make_schedule(settings, self._data.train)
        start = settings.objective.warmup_images
        self._steps = schedule.steps(start)
        self._batches = self._data.batches(
            Request(step.position, step.batch, step.phase.resolution) for step in schedule.steps(start)
        )
        self._players.prepare(schedule.step_at(start).segment)

    def __call__(self) -> None:
        step = next(self._steps)
        self._iteration.take(step, next(self._batches))
        self._guard.check(step)
        self._players.average(step.batch)

    def flops(self) -> int:
        """Floating-point operations of an iteration's products."""
        with Tracker() as tracker:
            self()
        return tracker.flops


class _Over(Exception):
    """Ends the authors' training function."""


def module_of(clone: Path) -> Any:
    """The authors' module of points in the plane. ValueError when `clone` is no clone of theirs."""
    folder = clone / FOLDER
    if not (folder / f"{MODULE}.py").is_file():
        raise ValueError(f"{clone} is no clone of taldatech/soft-intro-vae-pytorch: it has no {FOLDER}/{MODULE}.py")
    sys.path.insert(0, str(folder.resolve()))
    theirs = importlib.import_module(MODULE)
    sys.path.pop(0)
    return theirs


def taking_turns(clone: Path, others: dict[str, Iterate], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round of the authors' iteration, under `authors`, and of the others.

    Their loop asks a progress bar for its next iteration: what stands in the bar's place lets the others take theirs.
    ValueError when `clone` is no clone of theirs.
    """
    theirs = module_of(clone)
    seconds: dict[str, list[float]] = {"authors": []}

    def turns(_: Iterable[int]) -> Iterator[int]:
        for number in range(1, rounds + 2):  # number 0 prints and plots
            start = time.process_time()
            yield number
            seconds["authors"].append(time.process_time() - start)
            for name, found in alone(others, 1).items():
                seconds.setdefault(name, []).extend(found)
        raise _Over

    theirs.tqdm = turns
    soft_intro = load_config(f"toy/{SET}_soft_intro").objective.model_dump()
    betas = {key: soft_intro[key] for key in ("beta_rec", "beta_kl", "beta_neg", "gamma_r")}
    never = 1 << 40
    with suppress(_Over), redirect_stdout(io.StringIO()):  # it prints its networks
        theirs.train_soft_intro_vae_toy(
            batch_size=BATCH, n_iter=never, save_interval=never, test_iter=never, dataset="8Gaussians", **betas
        )
    return {name: found[1:] for name, found in seconds.items()}  # the first allocates


def alone(iterates: dict[str, Iterate], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round of these."""
    seconds: dict[str, list[float]] = {name: [] for name in iterates}
    for _ in range(rounds):
        for name, iterate in iterates.items():
            start = time.process_time()
            iterate()
            seconds[name].append(time.process_time() - start)
    return seconds


def product() -> Iterate:
    """A product of matrices as the hidden layers have it."""
    x, weight = torch.randn(BATCH, WIDTH), torch.randn(WIDTH, WIDTH)
    return lambda: torch.mm(x, weight)  # type: ignore[return-value]


def table(seconds: dict[str, list[float]], flops: dict[str, int]) -> Iterator[str]:
    """Lines of Markdown, from the rounds of all contenders and of `product`."""
    median = {name: statistics.median(found) for name, found in seconds.items()}
    rate = 2 * BATCH * WIDTH * WIDTH / median.pop("product")
    yield f"- products of {BATCH} x {WIDTH} x {WIDTH}: {rate / 1e9:.0f} GFLOP/s\n"
    yield "| iteration | CPU ms | authors / ours | points a second | GFLOP | share of the products' rate |"
    yield "|" + "---|" * 6
    for name, taken in median.items():
        ratio = ""
        if "authors" in median and name == next(iter(OURS)):
            times = median["authors"] / taken
            ratio = f"{times:.2f}, goal {GOAL:g} {'reached' if times >= GOAL else 'missed'}"
        work = f"{flops[name] / 1e9:.2f} | {flops[name] / taken / rate:.0%}" if name in flops else " | "
        yield f"| {name} | {1000 * taken:.1f} | {ratio} | {BATCH / taken:,.0f} | {work} |"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, metavar="CLONE", help="of taldatech/soft-intro-vae-pytorch")
    parser.add_argument("--rounds", type=int, default=100, help="of which the median counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args(given)
    if given is None and not PASSIVE.items() <= os.environ.items():  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.toy", *sys.argv[1:]], os.environ | PASSIVE)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    ours = {name: Toy(*how) for name, how in OURS.items()}
    flops = {name: toy.flops() for name, toy in ours.items()}
    others: dict[str, Iterate] = {**ours, "product": product()}
    with report(arguments.out, "Iterations on points", ("torch", "numpy")) as say:
        say(f"- {arguments.threads} thread(s), batches of {BATCH} points, {arguments.rounds} rounds")
        if arguments.authors is None:
            alone(others, 1)
            seconds = alone(others, arguments.rounds)
        else:
            say(f"- the authors' code at {commit(arguments.authors)}")
            try:
                seconds = taking_turns(arguments.authors, others, arguments.rounds)
            except ValueError as error:
                parser.error(str(error))
        for line in table(seconds, flops):
            say(line)


if __name__ == "__main__":
    main()
