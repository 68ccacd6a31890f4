"""CPU seconds of a training iteration, beside the authors' code: the table of docs/performance.md.

    python -m benchmarks.iteration [--authors CLONE] [--rows 8,16,32] [--rounds 3] [--threads 1] [--set KEY=VALUE ...]
                                   [--json FILE] [--out FILE]

An iteration is what training does for every batch once it is loaded: both updates with their checks, the guard and the
averages (sivae_dist/train/iteration.py), in fp32 and in bf16. It is compared with the iteration of the authors' code,
unpatched, in its fp32, from a clone of taldatech/soft-intro-vae-pytorch; without one, with a plain rendering of it
(benchmarks/plain_iteration.py). All have the widths of the configuration, random images and no transition, and take
turns in one process; the seconds are those of all its threads, the least of some rounds. Waiting threads sleep
(OMP_WAIT_POLICY=PASSIVE), so that other programs' load does not count.

Operations and memory are counted in an iteration that is not timed: floating-point operations of products and
convolutions, and the most bytes that it holds at once beyond weights, averages and the optimizers' state.
"""

import argparse
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from benchmarks.authors_iteration import AuthorsIteration
from benchmarks.machine import instruction_sets, machine
from benchmarks.plain_iteration import PlainIteration
from benchmarks.report import commit, report
from data_pipelines.dataset import Batch
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.models.style import StyleSettings
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.step.guard import Guard
from sivae_dist.step.schedule import Phase, Segment, Step
from sivae_dist.train.iteration import Iteration
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import Tracker

CPU = torch.device("cpu")
LR = 0.0015
"""Learning rate of both players, the paper's."""
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


class Goal(NamedTuple):
    """How many times as fast as the baseline, at least."""

    fp32: float
    bf16: float
    """With matrix units for bf16 (AMX)."""


class Row(NamedTuple):
    resolution: int
    batch: int
    goal: Goal


ROWS = {
    row.resolution: row
    for row in (
        Row(8, 8, Goal(1.3, 2)),
        Row(16, 8, Goal(1.35, 4.5)),
        Row(32, 8, Goal(1.6, 6)),
        Row(64, 4, Goal(1.8, 8)),
        Row(128, 1, Goal(1.8, 6.5)),
        Row(256, 1, Goal(1.8, 6.5)),
    )
}
PRECISIONS = ("fp32", "bf16")


def bf16_share(sets: Sequence[str]) -> float | None:
    """The share of bf16's goals that holds on a processor with these instruction sets; None without any for bf16."""
    return 1.0 if "amx_bf16" in sets else 0.5 if "avx512_bf16" in sets else None


class Contender(Protocol):
    """Networks with their optimizers and averages."""

    @property
    def name(self) -> str: ...
    def ready(self, resolution: int, batch: int) -> Callable[[], None]:
        """A function that takes one iteration on `batch` images of `resolution` px."""


class OurIteration:
    """The package's own: an iteration of a run with these settings, on given images."""

    def __init__(self, settings: RunSettings, device: torch.device = CPU, *, checked: bool = True) -> None:
        """`checked`: every iteration ends with the guard's verdict, for which it waits, as one that is logged does."""
        self.name: str = settings.engine.precision
        self.settings, self.device, self.checked = settings, device, checked
        self.players = Players(settings, device)
        self.guard = Guard(settings.guard, device)
        self.iteration = Iteration(settings, self.players, self.guard, device)
        self.images = 0
        self.last: Step | None = None

    def verdict(self) -> None:
        """Waits for the device. NonFiniteError unless all iterations were finite."""
        if self.last is not None:
            self.guard.check(self.last)

    def ready(self, resolution: int, batch: int) -> Callable[[], None]:
        x = (2 * torch.rand(batch, *self.settings.model.shape(resolution)) - 1).to(self.device)
        phase = Phase(0, resolution, 0, 1 << 40, 0, batch, LR, LR)
        segment = Segment(resolution, blending=False, warming_up=False)
        self.players.prepare(segment)

        def iterate() -> None:
            step = Step(self.images, batch, phase, segment, 1.0, LR, LR)
            self.iteration.take(step, Batch(x, None, step.position))
            if self.checked:
                self.guard.check(step)
            self.players.average(batch)
            self.images, self.last = step.end, step

        return iterate


class Measured(NamedTuple):
    """Figures of one contender at one row."""

    seconds: list[float]
    """CPU seconds of each round."""
    flops: int
    """Per image."""
    peak: int
    """Bytes."""

    @property
    def least(self) -> float:
        return min(self.seconds)


def measure(contenders: Sequence[Contender], row: Row, rounds: int) -> dict[str, Measured]:
    """Measures the contenders in turn, by name; the first of a round is the last of the next."""
    iterates = {one.name: one.ready(row.resolution, row.batch) for one in contenders}
    counts = {}
    for name, iterate in iterates.items():
        iterate()  # the first also allocates the optimizer's state
        with Tracker() as tracker:
            iterate()
        counts[name] = (tracker.flops // row.batch, tracker.peak)
    seconds: dict[str, list[float]] = {name: [] for name in iterates}
    for number in range(rounds):
        for name in list(iterates)[:: 1 if number % 2 == 0 else -1]:
            gc.collect()
            start = time.process_time()
            iterates[name]()
            seconds[name].append(time.process_time() - start)
    return {name: Measured(seconds[name], *counts[name]) for name in iterates}


class Comparison(NamedTuple):
    """One precision compared with the baseline."""

    ratio: float
    goal: float | None
    """None where there is none for this processor."""

    @property
    def reached(self) -> bool | None:
        return None if self.goal is None else self.ratio >= self.goal

    def __str__(self) -> str:
        judged = "none" if self.goal is None else f"{self.goal:g}, {'reached' if self.reached else 'missed'}"
        return f"{self.ratio:.2f} | {judged}"


def compare(measured: dict[str, Measured], row: Row, baseline: str, sets: Sequence[str]) -> dict[str, Comparison]:
    """Compares both precisions with the baseline, by precision."""
    share = bf16_share(sets)
    goals = {"fp32": row.goal.fp32, "bf16": None if share is None else share * row.goal.bf16}
    base = measured[baseline].least
    return {name: Comparison(base / measured[name].least, goals[name]) for name in PRECISIONS}


def rows_of(
    contenders: Sequence[Contender], arguments: argparse.Namespace, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Prints the table; yields its rows as they are kept in JSON."""
    baseline, sets = contenders[0].name, instruction_sets()
    names = [baseline, *PRECISIONS]
    say(f"\n| px, batch | {baseline}, CPU s | fp32 | {baseline} / fp32 | goal | bf16 | {baseline} / bf16 | goal |")
    say("|" + "---|" * 8)
    counted = []
    for row in arguments.rows:
        measured = measure(contenders, row, arguments.rounds)
        compared = compare(measured, row, baseline, sets)
        cells = (f"{measured[name].least:.2f} | {compared[name]}" for name in PRECISIONS)
        say(f"| {row.resolution}, {row.batch} | {measured[baseline].least:.2f} | {' | '.join(cells)} |")
        counted.append((row, measured))
        yield {
            "resolution": row.resolution,
            "batch": row.batch,
            "measured": {name: one._asdict() for name, one in measured.items()},
            "ratios": {name: one._asdict() | {"reached": one.reached} for name, one in compared.items()},
        }
    say(f"\nCounted:\n\n| px, batch | GFLOP an image, {' | '.join(names)} | GB at the peak, {' | '.join(names)} |")
    say("|" + "---|" * (1 + 2 * len(names)))
    for row, measured in counted:
        flops = " | ".join(f"{measured[name].flops / 1e9:.1f}" for name in names)
        peaks = " | ".join(f"{measured[name].peak / 1e9:.2f}" for name in names)
        say(f"| {row.resolution}, {row.batch} | {flops} | {peaks} |")


def begin(arguments: argparse.Namespace) -> list[Contender]:
    """The baseline, then ours. ValueError when the configuration or the clone cannot be used."""
    ours = [
        load_config(arguments.config, ["data.path=unused", "device=cpu", *arguments.set, f"engine.precision={name}"])
        for name in PRECISIONS
    ]
    return [baseline_of(ours[0], arguments.config, arguments.authors), *map(OurIteration, ours)]


def baseline_of(settings: RunSettings, config: str, clone: Path | None) -> Contender:
    """The authors' iteration, or the plain rendering of it, with networks of the settings of `config` on torch's
    default device. ValueError when the configuration or the clone cannot be used."""
    model, objective = settings.model, settings.objective
    if not isinstance(model, StyleSettings) or not isinstance(objective, SoftIntroSettings):
        raise ValueError(f"{config} is no Soft-IntroVAE with style-based networks, which the authors' are")
    shape = (model, objective, LR)
    return PlainIteration(*shape) if clone is None else AuthorsIteration(clone, *shape)


def _rows(text: str) -> list[Row]:
    try:
        return [ROWS[int(one)] for one in text.split(",")]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"{text} is no list of {', '.join(map(str, ROWS))}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path, metavar="CLONE", help="of taldatech/soft-intro-vae-pytorch")
    parser.add_argument(
        "--rows", type=_rows, default=list(ROWS.values()), help="resolutions, as 8,16,32; all by default"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the least counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings of ours")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    if not PASSIVE.items() <= os.environ.items():  # read when torch is loaded
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.iteration", *sys.argv[1:]], os.environ | PASSIVE)
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads are numbers from 1 on")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    random.seed(0)
    try:
        contenders = begin(arguments)
    except ValueError as error:
        parser.error(str(error))
    with report(arguments.out, "Training iteration", ("torch",)) as say:
        say(f"- {arguments.threads} thread(s), instruction sets: {', '.join(instruction_sets()) or 'none of these'}")
        if arguments.authors is not None:
            say(f"- the authors' code at {commit(arguments.authors)}")
        rows = list(rows_of(contenders, arguments, say))
    if arguments.json is not None:
        facts = {
            "machine": machine(),
            "instruction_sets": instruction_sets(),
            "torch": torch.__version__,
            "commit": commit(),
            "threads": arguments.threads,
            "config": arguments.config,
            "set": arguments.set,
            "baseline": contenders[0].name,
            "rows": rows,
        }
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
