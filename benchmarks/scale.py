"""Seconds and memory that opening a data set of 3 million images adds to a process: manifest, loader, order.

    python -m benchmarks.scale [--shards 6000] [--samples 500] [--dir DIR] [--out FILE]

The data set has the levels 4 to 256 px; only its manifest is real, and one file a level stands under the names of all.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import report
from data_pipelines.images.arrays import write_array
from data_pipelines.images.manifest import FileRecord, Level, Manifest, Shard, write_file

CHECKSUM = "0" * 64

OPENING = """
import sys, time
import torch
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loader import Loader
from data_pipelines.images.opening import open_store

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

path, train = sys.argv[1], int(sys.argv[2])
start, before = time.perf_counter(), resident()
begun, memory = start, before

def told(what):
    global start, before
    print(f"| {what} | {time.perf_counter() - start:.2f} | {resident() - before:.0f} |")
    start, before = time.perf_counter(), resident()

store = open_store(path)
manifest = store.manifest()
told("manifest")
loader = Loader(ImageSettings(path=path), store, manifest, 0, torch.device("cpu"))
for resolution in manifest.levels:
    loader.reader(resolution)
told("loader, all levels")
loader.order.at(0, 32)
told("order of the first epoch")
loader.order.at(train, 32)
told("order of the second epoch")
manifest.digest
told("digest of the manifest")
start, before = begun, memory
told("all")
print(f"\\nMemory of the process, most of it PyTorch's libraries: {resident():.0f} MB.")
"""


def make(root: Path, shards: int, samples: int) -> None:
    def records(resolution: int, ending: str, size: int) -> tuple[FileRecord, ...]:
        names = (f"{resolution:04d}/shard-{k:05d}.{ending}" for k in range(shards))
        return tuple(FileRecord(name=name, bytes=size, sha256=CHECKSUM) for name in names)

    levels = {}
    for resolution in (4, 8, 16, 32):
        size = 128 + samples * 3 * resolution * resolution
        levels[resolution] = Level(kind="array", format="npy", files=records(resolution, "npy", size))
    for resolution in (64, 128, 256):
        levels[resolution] = Level(
            kind="tar",
            format="jpeg",
            files=records(resolution, "tar", samples * resolution * resolution // 2),
            indexes=records(resolution, "index.npy", 128 + 20 * samples),
        )
    Manifest(
        resolution=256,
        channels=3,
        samples=shards * samples,
        train=shards * samples,
        test=0,
        classes=("one", "other"),
        shards=tuple(Shard(samples=samples, split="train") for _ in range(shards)),
        levels=levels,
        names=write_file(root, "names.txt", b"unused"),
        labels=write_array(root, "labels.npy", np.zeros(shards * samples, np.int64)),
        source="none",
    ).write(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=6000)
    parser.add_argument("--samples", type=int, default=500, help="of each shard")
    parser.add_argument("--dir", type=Path, help="where to write; the system's temporary folder by default")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=arguments.dir) as temporary,
        report(arguments.out, "Opening a large data set", ("pydantic", "numpy", "torch")) as say,
    ):
        root = Path(temporary)
        make(root, arguments.shards, arguments.samples)
        manifest = (root / "manifest.json").stat().st_size
        say(f"- {arguments.shards} shards of {arguments.samples} images, manifest of {manifest / 1e6:.1f} MB\n")
        say("| step | seconds | MB added |\n|---|---|---|")
        command = [sys.executable, "-c", OPENING, str(root), str(arguments.shards * arguments.samples)]
        say(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.rstrip())


if __name__ == "__main__":
    main()
