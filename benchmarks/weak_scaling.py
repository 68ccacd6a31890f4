"""Weak scaling of training from one process to two, each on one core: the same images for each process.

    python -m benchmarks.weak_scaling [--rows 32,64] [--images N] [--rounds 3] [--config ffhq256] [--set KEY=VALUE ...]
                                      [--out FILE]

Three settings take turns with the same iteration (benchmarks/iteration.py), whose images are random: one process alone
on the first core, two processes apart, which know nothing of each other but share the memory's bandwidth, and two
together, which reduce their gradients with DDP over gloo. The efficiency of two is their images per second over twice
those of one. By wall time, from the first start to the last end, it counts all that costs time, other programs on these
cores too; by CPU seconds an image, of all threads, those do not count, and waiting for the other process neither. Of
each setting the best round counts.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.multiprocessing import get_context

from benchmarks.iteration import PASSIVE, ROWS, OurIteration
from benchmarks.report import report
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.process.processes import leave
from sivae_dist.train.communication import communication

SETTINGS = {"alone": ("alone", 1), "apart": ("alone", 2), "together": ("together", 2)}
"""By name: which iteration is taken, and by how many processes."""


class Taken(NamedTuple):
    """One iteration of one process."""

    start: float
    end: float
    """Both in seconds of a clock that processes share."""
    cpu: float
    """CPU seconds of all its threads."""


class Figures(NamedTuple):
    """The best of some rounds."""

    wall: float
    """Seconds from the first start to the last end."""
    cpu: float
    """Mean of the processes."""
    share: float
    """Of its core that a process had meanwhile."""


def work(index: int, settings: RunSettings, row: tuple[int, int], core: int, meeting: str, pipe: Connection) -> None:
    """Takes an iteration each time that it is told a name, until it is told nothing."""
    os.sched_setaffinity(0, {core})
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    torch.manual_seed(index)
    iterates = {"alone": OurIteration(settings).ready(*row)}
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    iterates["together"] = OurIteration(settings).ready(*row)
    for iterate in iterates.values():  # the first also allocates the optimizer's state, and DDP lays out its buckets
        iterate()
    pipe.send(os.sched_getaffinity(0))
    while name := pipe.recv():
        gc.collect()
        start, cpu = time.monotonic(), time.process_time()
        iterates[name]()
        pipe.send(Taken(start, time.monotonic(), time.process_time() - cpu))
    leave()


def measure(settings: RunSettings, row: tuple[int, int], rounds: int, cores: list[int]) -> dict[str, Figures]:
    """By setting."""
    context: Any = get_context("spawn")
    taken: dict[str, list[list[Taken]]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for index in range(2):
            ours, theirs = context.Pipe()
            place = (cores[index], f"{folder}/meeting", theirs)
            processes.append(context.Process(target=work, args=(index, settings, row, *place), daemon=True))
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        try:
            assert [pipe.recv() for pipe in pipes] == [{core} for core in cores[:2]]
            for number in range(rounds):
                for name in list(SETTINGS)[:: 1 if number % 2 == 0 else -1]:
                    which, count = SETTINGS[name]
                    for pipe in pipes[:count]:
                        pipe.send(which)
                    taken[name].append([pipe.recv() for pipe in pipes[:count]])
            for pipe in pipes:
                pipe.send(None)
            for process in processes:
                process.join()
        finally:
            for process in processes:
                process.kill()
    return {name: best(found) for name, found in taken.items()}


def best(rounds: list[list[Taken]]) -> Figures:
    walls = [max(one.end for one in found) - min(one.start for one in found) for found in rounds]
    cpus = [sum(one.cpu for one in found) / len(found) for found in rounds]
    wall = min(walls)
    return Figures(wall, min(cpus), cpus[walls.index(wall)] / wall)


def table(arguments: argparse.Namespace, settings: RunSettings, say: Callable[[str], None]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    say(
        "\n| px, images a process | setting | images/s | efficiency | CPU s an image | efficiency | share of the core |"
    )
    say("|---|---|---|---|---|---|---|")
    for resolution in arguments.rows:
        images = arguments.images or ROWS[resolution].batch
        found = measure(settings, (resolution, images), arguments.rounds, cores)
        alone = found["alone"]
        for name, one in found.items():
            count = SETTINGS[name][1]
            wall, cpu = f"{alone.wall / one.wall:.1%}", f"{alone.cpu / one.cpu:.1%}"
            say(
                f"| {resolution}, {images} | {count} {name} | {count * images / one.wall:.4g} | {wall} "
                f"| {one.cpu / images:.4g} | {cpu} | {one.share:.0%} |"
            )
    sums = ", ".join(f"{communication(settings, r, 2).reduced / 1e6:.0f} MB at {r} px" for r in arguments.rows)
    say(f"\nGradients that two processes sum in each step: {sums}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="pixels, as 32,64", default="32,64")
    parser.add_argument("--images", type=int, help="of each process in a step; as in bench-iteration by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    if not PASSIVE.items() <= os.environ.items():  # read when torch is loaded
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.weak_scaling", *sys.argv[1:]], os.environ | PASSIVE
        )
    try:
        settings = load_config(arguments.config, ["data.path=unused", "device=cpu", *arguments.set])
        arguments.rows = [ROWS[int(one)].resolution for one in arguments.rows.split(",")]
    except (KeyError, ValueError) as error:
        parser.error(str(error))
    if arguments.rounds < 1 or len(os.sched_getaffinity(0)) < 2:
        parser.error("it takes at least one round, and two cores")
    with report(arguments.out, "Weak scaling", ("torch",)) as say:
        table(arguments, settings, say)


if __name__ == "__main__":
    main()
