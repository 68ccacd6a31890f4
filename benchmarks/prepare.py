"""Images per CPU-second of `sivae data prepare`, from PNG of 1024 px as FFHQ's to a pyramid of 256 px.

    python -m benchmarks.prepare [--dir DIR] [--distinct 48] [--images 768] [--rounds 3] [--out FILE]

Reports JPEG and PNG shards, what one image costs in each part of the work, and how much sooner two workers are done
than one, beside two processes that only decode and share nothing: that is how far two cores of this machine go, and
less while something else runs on them. The distinct pictures are linked under further names to as many as asked for.
"""

import argparse
import multiprocessing as mp
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.pictures import write_pictures
from benchmarks.report import report
from data_pipelines.images.decode import encode, halve, round_pixels
from data_pipelines.images.manifest import OutputFile
from data_pipelines.images.shards import TarWriter
from data_pipelines.images.sources.image import to_pixels, to_square

PACKAGES = ("imagecodecs", "opencv-python-headless", "simplejpeg", "webdataset", "numpy")
FORMATS: tuple[Literal["jpeg", "png"], ...] = ("jpeg", "png")
LIMIT = "not stored: decoded and reduced, by processes that share nothing"


def link_pictures(folder: Path, distinct: int, images: int) -> Path:
    made, linked = folder / f"pictures-1024-{distinct}", folder / f"linked-{distinct}-{images}"
    write_pictures(made, 1024, distinct)
    linked.mkdir(exist_ok=True)
    for number in range(images):
        path = linked / f"{number:06d}.png"
        if not path.exists():
            path.hardlink_to(made / f"{number % distinct:05d}.png")
    return linked


PREPARING = """
import os, sys, time
import webdataset  # takes seconds
from data_pipelines.images.prepare import PrepareSettings, prepare

source, dest, kind, shard_size, workers = sys.argv[1:]
first = []

def progress(done, total):
    if done and not first:
        first.extend((done, time.perf_counter()))

cpu = sum(os.times()[:4])
images = prepare(source, dest, PrepareSettings(format=kind, shard_size=int(shard_size)), int(workers), progress).samples
print(images / (sum(os.times()[:4]) - cpu), (images - first[0]) / (time.perf_counter() - first[1]))
"""


def prepare(source: Path, dest: Path, kind: str, images: int, workers: int) -> tuple[float, float]:
    """Images per CPU-second, start of workers included, and images a second from the first images on."""
    shutil.rmtree(dest, ignore_errors=True)
    arguments = [str(source), str(dest), kind, str(max(images // 32, 1)), str(workers)]
    done = subprocess.run([sys.executable, "-c", PREPARING, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(dest)
    per_cpu_second, per_second = done.stdout.split()
    return float(per_cpu_second), float(per_second)


def decode_alone(job: tuple[Path, int, int]) -> float:
    """Seconds that a process takes to decode and reduce so many of the pictures, from the given one on."""
    source, first, count = job
    paths = sorted(source.iterdir())[first : first + count]
    to_square(paths[0].read_bytes(), 3, 256)
    start = time.perf_counter()
    for path in paths:
        to_square(path.read_bytes(), 3, 256)
    return time.perf_counter() - start


def parts(source: Path, scratch: Path) -> dict[str, float]:
    """Milliseconds of CPU time that one image costs in each part, medians over some images."""
    contents = [path.read_bytes() for path in sorted(source.iterdir())[:16]]
    squares = [to_square(content, 3, 256) for content in contents]

    def levels(k: int) -> list[np.ndarray]:
        found, pixels = [round_pixels(squares[k])], squares[k]
        while len(pixels) > 4:
            pixels = halve(pixels)
            found.append(round_pixels(pixels))
        return found

    stored = [levels(k) for k in range(len(contents))]
    work: dict[str, Callable[[int], object]] = {
        "decode 1024 px": lambda k: to_pixels(contents[k], 3),
        "decode and area means to 256 px": lambda k: to_square(contents[k], 3, 256),
        "2x2 means to 4 px, rounding": levels,
        "JPEG of 256, 128, 64 px": lambda k: [encode(p, "jpeg", 95) for p in stored[k][:3]],
        "PNG of 256, 128, 64 px": lambda k: [encode(p, "png", 95) for p in stored[k][:3]],
    }
    cost = {}
    for name, function in work.items():
        times = []
        for k in range(len(contents)):
            start = time.thread_time()
            function(k)
            times.append(time.thread_time() - start)
        cost[name] = 1000 * statistics.median(times)
    for kind in FORMATS:
        with OutputFile(scratch, f"{kind}/shard.tar") as output:
            tar = TarWriter(scratch, f"{kind}/shard", output, kind, 95)
            start = time.thread_time()
            for k in range(len(contents)):
                for pixels in stored[k][:3]:
                    tar.add(pixels, k, None)
            whole = 1000 * (time.thread_time() - start) / len(contents)
            tar.finish()
        cost[f"tar, checksums, index of 3 members ({kind})"] = whole - cost[f"{kind.upper()} of 256, 128, 64 px"]
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=Path, help="where the pictures are made or found; a temporary folder by default")
    parser.add_argument("--distinct", type=int, default=48)
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.dir) as temporary,
        report(arguments.out, "Preparation", PACKAGES) as say,
    ):
        folder = arguments.dir or Path(temporary)
        source = link_pictures(folder, arguments.distinct, arguments.images)
        size = statistics.mean(path.stat().st_size for path in source.iterdir())
        say(f"- {arguments.images} PNG of 1024 px, {size / 1e6:.2f} MB each; medians of {arguments.rounds} rounds")
        say("- a second: from the first image on, so without the start of the workers\n")
        say("| stored as | images per CPU-second | images a second, 1 worker | 2 workers | ratio |")
        say("|---|---|---|---|---|")
        rates: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in (*FORMATS, LIMIT)}
        half = arguments.images // 2
        with mp.get_context("spawn").Pool(2) as pool:
            for _ in range(arguments.rounds):
                for kind in FORMATS:
                    used, one = prepare(source, Path(temporary) / "out", kind, arguments.images, 1)
                    _, two = prepare(source, Path(temporary) / "out", kind, arguments.images, 2)
                    rates[kind].append((used, one, two))
                (alone,) = pool.map(decode_alone, [(source, 0, half)])
                both = pool.map(decode_alone, [(source, 0, half), (source, half, half)], chunksize=1)
                rates[LIMIT].append((half / alone, half / alone, 2 * half / max(both)))
        for name, rounds in rates.items():
            ratio = statistics.median(two / one for _, one, two in rounds)
            medians = " | ".join(f"{statistics.median(column):.1f}" for column in zip(*rounds, strict=True))
            say(f"| {name} | {medians} | {ratio:.2f} |")
        say("\n| part | ms of CPU time an image |\n|---|---|")
        for name, milliseconds in parts(source, Path(temporary)).items():
            say(f"| {name} | {milliseconds:.2f} |")


if __name__ == "__main__":
    main()
