"""Images per CPU-second of our loader, of other loaders, and of the bare decoder that none can beat, in one run.

    make bench      with litdata, from an environment of its own
    python -m benchmarks.loader [--dir DIR] [--images 4000] [--rounds 5] [--only WORDS] [--out FILE]

Every contestant is a process of its own on one and the same core. They take turns, a second or two of CPU time each,
for as many rounds as asked; medians are printed. CPU time is that of all threads and children. The data is in the page
cache. A ratio is to the bare decoder (or bare indexing, for arrays) in the same round, so that what others do on the
machine meets both; figures of different runs should not be compared.
"""

import argparse
import contextlib
import json
import multiprocessing as mp
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.peers import (
    BATCH,
    by_pillow,
    by_simplejpeg,
    dali_cpu,
    litdata_simplejpeg,
    stored_images,
    webdataset,
    webdataset_worker,
    zip_of_pngs,
)
from benchmarks.pictures import write_pictures
from benchmarks.report import report

SEED = 7
PACKAGES = ("simplejpeg", "imagecodecs", "webdataset", "nvidia-dali-cuda130", "litdata", "pillow", "numpy", "torch")

Contestant = Callable[[Path], Iterator[int]]


def limit(folder: Path, resolution: int, decoder: str) -> Iterator[int]:
    """A decoder alone, on bytes in memory; each image goes into a new array."""
    import imagecodecs

    decode: Callable[[bytes], Any] = by_simplejpeg if decoder == "simplejpeg" else imagecodecs.spng_decode
    stored = list(stored_images(folder, resolution))
    while True:
        for first in range(0, len(stored) - BATCH + 1, BATCH):
            for data in stored[first : first + BATCH]:
                decode(data)
            yield BATCH


def limit_of_arrays(folder: Path, resolution: int) -> Iterator[int]:
    """One array in memory, indexed in random order."""
    import numpy as np

    rows = np.concatenate([np.load(path) for path in sorted((folder / f"{resolution:04d}").glob("*.npy"))])
    generator = np.random.default_rng(SEED)
    while True:
        for chosen in np.array_split(generator.permutation(len(rows)), len(rows) // BATCH):
            yield len(rows[chosen])


def ours(folder: Path, resolution: int, floats: bool, loader: str = "cpu") -> Iterator[int]:
    """The whole loader: order, reading, checksum, decoding, batch. Without `floats`, batches stay uint8: in training
    a GPU converts them."""
    import torch

    import data_pipelines.images.loader as loading
    from data_pipelines.dataset import Request
    from data_pipelines.images.dataset import ImageSettings

    if not floats:
        loading.to_images = lambda pixels, flips=None: pixels
    made = ImageSettings(path=str(folder), loader=loader).open(SEED, torch.device("cpu"))
    requests = (Request(position, BATCH, resolution) for position in range(0, sys.maxsize, BATCH))
    for batch in made.batches(requests):
        yield len(batch.x)


def groups() -> dict[str, dict[str, Contestant]]:
    """What is compared with one another; the first of each group is the limit."""

    def own(resolution: int) -> dict[str, Contestant]:
        return {
            "sivae": partial(ours, resolution=resolution, floats=False),
            "sivae, floats made on the CPU": partial(ours, resolution=resolution, floats=True),
        }

    def with_dali(resolution: int) -> dict[str, Contestant]:
        return {"sivae, data.loader=dali on the CPU": partial(ours, resolution=resolution, floats=False, loader="dali")}

    jpeg: dict[str, dict[str, Contestant]] = {
        f"jpeg {r}": {
            "simplejpeg alone": partial(limit, resolution=r, decoder="simplejpeg"),
            **own(r),
            **with_dali(r),
            "webdataset, simplejpeg": partial(webdataset, resolution=r, member="jpg", decode=by_simplejpeg),
            "webdataset, simplejpeg, a worker": partial(
                webdataset_worker, resolution=r, member="jpg", decode=by_simplejpeg
            ),
            "webdataset, Pillow": partial(webdataset, resolution=r, member="jpg", decode=by_pillow),
            "DALI with its own reader, on the CPU": partial(dali_cpu, resolution=r, member="jpg"),
            "litdata, simplejpeg": partial(litdata_simplejpeg, resolution=r),
        }
        for r in (256, 64)
    }
    png: dict[str, Contestant] = {
        "spng alone": partial(limit, resolution=256, decoder="spng"),
        **own(256),
        **with_dali(256),
        "webdataset, Pillow": partial(webdataset, resolution=256, member="png", decode=by_pillow),
        "DALI with its own reader, on the CPU": partial(dali_cpu, resolution=256, member="png"),
        "zip of PNG, Pillow": partial(zip_of_pngs, resolution=256),
    }
    arrays: dict[str, dict[str, Contestant]] = {
        f"array {r}": {"NumPy indexing alone": partial(limit_of_arrays, resolution=r), **own(r)} for r in (32, 16)
    }
    return {**jpeg, "png 256": png, **arrays}


def cpu_seconds() -> float:
    """Of this process and of its living children."""
    ticks = 0
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            words = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])  # utime and stime
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def serve(contestant: Contestant, folder: Path, core: int, seconds: float, connection: Connection) -> None:
    """A contestant's process: answers every message with images per CPU-second of one turn, None when it cannot run."""
    os.sched_setaffinity(0, {core})
    sys.stdout = sys.stderr  # litdata prints
    try:
        batches = contestant(folder)
        next(batches)
    except ImportError:
        connection.send(None)
        return
    connection.send(0.0)
    while connection.recv():
        for _ in range(12):  # what was read ahead since the last turn is not counted
            next(batches)
        images, start = 0, cpu_seconds()
        while (used := cpu_seconds() - start) < seconds:
            images += sum(next(batches) for _ in range(4))
        connection.send(images / used)


@dataclass
class Row:
    rates: list[float]
    ratios: list[float]

    def text(self, name: str) -> str:
        if not self.rates:
            return f"| {name} | not installed | |"
        low, high = min(self.ratios), max(self.ratios)
        ratio = statistics.median(self.ratios)
        return f"| {name} | {statistics.median(self.rates):,.0f} | {ratio:.2f} ({low:.2f} to {high:.2f}) |"


def compare(contestants: dict[str, Contestant], folder: Path, rounds: int, seconds: float) -> dict[str, Row]:
    core = max(os.sched_getaffinity(0))
    spawn = mp.get_context("spawn")
    rows = {name: Row([], []) for name in contestants}
    running: dict[str, Connection] = {}
    processes = []
    for name, contestant in contestants.items():
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=serve, args=(contestant, folder, core, seconds, there), daemon=False))
        processes[-1].start()
        there.close()
        with contextlib.suppress(EOFError):  # it ended with a traceback
            if here.recv() is not None:
                running[name] = here
    for _ in range(rounds):
        best = 0.0
        for name, connection in running.items():
            connection.send(True)
            rate = connection.recv()
            best = best or rate
            rows[name].rates.append(rate)
            rows[name].ratios.append(rate / best)
    for connection in running.values():
        connection.send(False)
    for process in processes:
        process.join(20)
        process.terminate()
    return rows


def make_sets(folder: Path, images: int) -> dict[str, Path]:
    from data_pipelines.images.prepare import PrepareSettings, prepare

    source = folder / f"pictures-{images}"
    write_pictures(source, 256, images)
    sets = {kind: folder / f"{kind}-{images}" for kind in ("jpeg", "png")}
    for kind, made in sets.items():
        if not made.exists():
            settings = PrepareSettings.model_validate({"format": kind, "shard_size": 500, "resolution": 256})
            prepare(source, made, settings, workers=len(os.sched_getaffinity(0)))
    return {**sets, "array": sets["jpeg"]}


def wait_share(data: Path, scratch: Path) -> str:
    """How much of its time a training on the CPU waits for data."""
    command = [sys.executable, "-m", "launch.cli", "train", "tiny", "--data", str(data), "--run-dir", str(scratch)]
    command += ["model.resolution=64", "schedule.images={4: 2k, 8: 2k, 16: 2k, 32: 1k, 64: 1k}", "checkpoint.every=0"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"Training failed: {done.stderr[-2000:]}"
    lines = [json.loads(line) for line in (scratch / "speed.jsonl").read_text().splitlines()]
    shares = [line["data/wait_share"] for line in lines if "data/wait_share" in line]
    share = 100 * statistics.mean(shares)
    return f"Share of its time that a small training from 4 to 64 px on the CPU waits for data: {share:.2f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="where the data is made or found; a temporary folder by default")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="CPU time of one turn")
    parser.add_argument("--only", default="", help='which groups and contestants: "jpeg 256", "sivae"')
    parser.add_argument(
        "--train", action="store_true", help="also train a minute and tell how long that waits for data"
    )
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.dir or Path(temporary)
        sets = make_sets(folder, arguments.images)
        with report(arguments.out, "Loaders", PACKAGES) as say:
            for group, contestants in groups().items():
                if arguments.only and arguments.only not in group:
                    continue
                rows = compare(contestants, sets[group.split()[0]], arguments.rounds, arguments.seconds)
                say(f"\n| {group} px | images per CPU-second | ratio to the first |\n|---|---|---|")
                for name, row in rows.items():
                    say(row.text(name))
            if arguments.train:
                say("\n" + wait_share(sets["jpeg"], Path(temporary) / "run"))


if __name__ == "__main__":
    main()
