"""How much sooner two processes evaluate than one, and what the distance itself costs.

    python -m benchmarks.evaluation [--images 200] [--rounds 3] [--out FILE]

Each process has one thread. Measured is the time from the first batch to the last: features of real images and of
samples of an untrained decoder, by Inception-v3 with random weights at 139 px. Beside it stand two processes that do
the same and share nothing, which is how far two cores of this machine go.
"""

import argparse
import multiprocessing as mp
import os
import socket
import statistics
import tempfile
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

from benchmarks.pictures import write_pictures
from benchmarks.report import report
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.evaluation.evaluator import Evaluator
from sivae_dist.evaluation.metrics.fid import frechet_distance
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.evaluation.statistics import Statistics
from sivae_dist.models import Stage
from sivae_dist.models.style import StyleSettings
from sivae_dist.use.pretrained import Pretrained

PACKAGES = ("torch", "torch-fidelity", "numpy")
BATCH = 10
CPU = torch.device("cpu")


def serve(data: Path, images: int, rank: int, world: int, port: int, connection: Connection) -> None:
    """Evaluates once for every word that comes; the answer is images a second, of all processes of the group."""
    torch.set_num_threads(1)
    if world > 1:
        store = TCPStore("127.0.0.1", port, world, rank == 0, timedelta(seconds=60))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    settings = StyleSettings(resolution=32, latent=64, base_width=16, max_width=64, decoder_mapping=2)
    model = Pretrained(settings, *settings.build(0), Stage(32), 0)
    while connection.recv():
        ticks: list[tuple[float, int]] = []

        def tick(what: str, done: int, total: int, ticks: list[tuple[float, int]] = ticks) -> None:
            ticks.append((time.perf_counter(), done + (images if what == "samples" else 0)))

        with tempfile.TemporaryDirectory() as cache, ImageSettings(path=str(data)).open(0, CPU) as opened:
            chosen = EvaluationSettings(
                metrics=("fid",), samples=images, extractor="inception-v3-random", layer="768", batch=BATCH, cache=cache
            )
            evaluator = Evaluator(chosen, opened, CPU, tick=tick)
            evaluator.prepare()
            evaluator.evaluate(model)
        (start, first), (end, last) = ticks[0], ticks[-1]
        connection.send((last - first) / (end - start))


class Group:
    """Processes that evaluate together."""

    def __init__(self, data: Path, images: int, world: int) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        spawn = mp.get_context("spawn")
        self._pipes = []
        for rank in range(world):
            here, there = spawn.Pipe()
            spawn.Process(target=serve, args=(data, images, rank, world, port, there), daemon=True).start()
            self._pipes.append(here)

    def begin(self) -> None:
        for pipe in self._pipes:
            pipe.send(True)

    def rate(self) -> float:
        return float(min(pipe.recv() for pipe in self._pipes))

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.send(False)


def seconds_of_distance(dimensions: int, images: int) -> float:
    """CPU seconds of one Frechet distance."""
    generator = np.random.default_rng(0)
    pair = []
    for _ in range(2):
        features = generator.standard_normal((images, dimensions))
        pair.append(Statistics(images, features.mean(0), np.cov(features, rowvar=False)))
    start = time.process_time()
    frechet_distance(*pair)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="real ones, and as many samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary, report(arguments.out, "Evaluation", PACKAGES) as say:
        data = Path(temporary) / "set"
        write_pictures(Path(temporary) / "pictures", 32, arguments.images)
        prepare(Path(temporary) / "pictures", data, PrepareSettings(resolution=32))
        groups = {"one process": [1], "two processes": [2], "two that share nothing": [1, 1]}
        running = {name: [Group(data, arguments.images, world) for world in worlds] for name, worlds in groups.items()}
        rates: dict[str, list[float]] = {name: [] for name in groups}
        for _ in range(arguments.rounds):
            for name, some in running.items():
                for group in some:
                    group.begin()
                rates[name].append(sum(group.rate() for group in some))
        for some in running.values():
            for group in some:
                group.close()
        say(f"- {arguments.images} real images and as many samples of 32 px; medians of {arguments.rounds} rounds")
        say("\n| | images a second | ratio to one process |\n|---|---|---|")
        for name, found in rates.items():
            ratio = statistics.median(a / b for a, b in zip(found, rates["one process"], strict=True))
            say(f"| {name} | {statistics.median(found):.2f} | {ratio:.2f} |")
        say("\n| dimensions | CPU seconds of a Frechet distance |\n|---|---|")
        for dimensions in (192, 768, 2048):
            say(f"| {dimensions} | {seconds_of_distance(dimensions, 2 * dimensions):.2f} |")


if __name__ == "__main__":
    main()
