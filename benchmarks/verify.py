"""How fast a data set is verified: stored images and bytes per CPU-second, beside the speed of SHA-256 alone.

    python -m benchmarks.verify [--samples 20000] [--rounds 5] [--decode] [--dir DIR]

Labelled tars of JPEGs, of 256 px and about 28 KB and of 64 px and about 3 KB, written as `sivae data prepare` does; one
process. Rounds of verifying and of hashing alternate, so that noise of the machine meets both; medians are printed.
"""

import argparse
import hashlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from data_pipelines.images.arrays import write_array
from data_pipelines.images.manifest import Level, Manifest, OutputFile, Shard, write_file
from data_pipelines.images.shards import TarWriter
from data_pipelines.images.verify import verify

SHARD = 1000


def make(root: Path, samples: int, resolution: int, detail: int, quality: int) -> Manifest:
    """A data set of one level of pictures with `detail` random patches a side, which sets their size in bytes."""
    pictures = []
    for i in range(50):
        patches = np.random.default_rng(i).integers(0, 256, (detail, detail, 3), dtype=np.uint8)
        pictures.append(np.kron(patches, np.ones((resolution // detail, resolution // detail, 1), np.uint8)))
    files, indexes, shards = [], [], []
    for start in range(0, samples, SHARD):
        name = f"{resolution:04d}/shard-{start // SHARD:05d}"
        with OutputFile(root, f"{name}.tar") as output:
            writer = TarWriter(root, name, output, "jpeg", quality)
            for position in range(start, min(start + SHARD, samples)):
                writer.add(pictures[position % len(pictures)], position, position % 10)
            file, index = writer.finish()
        assert index is not None
        files.append(file)
        indexes.append(index)
        shards.append(Shard(samples=min(SHARD, samples - start), split="train"))
    level = Level(kind="tar", format="jpeg", files=tuple(files), indexes=tuple(indexes))
    manifest = Manifest(
        resolution=resolution, channels=3, samples=samples, train=samples, test=0, shards=tuple(shards),
        levels={resolution: level}, classes=tuple("0123456789"), source="benchmark",
        names=write_file(root, "names.txt", b"name\n" * samples),
        labels=write_array(root, "labels.npy", np.arange(samples, dtype=np.int64) % 10),
    )  # fmt: skip
    manifest.write(root)
    return manifest


def seconds(work: Callable[..., None], *arguments: object) -> float:
    """CPU time of this process."""
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def hash_all(paths: list[Path]) -> None:
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")


def check(root: Path, decode: bool) -> None:
    faults = verify(root, decode)
    assert not faults, faults[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--decode", action="store_true")
    parser.add_argument("--dir", help="where to write; the system's temporary folder by default")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    print(f"{machine()}, commit {commit}, {'with' if arguments.decode else 'without'} decoding")
    for resolution, detail, quality in ((256, 64, 42), (64, 16, 50)):
        with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
            root = Path(folder)
            level = make(root, arguments.samples, resolution, detail, quality).levels[resolution]
            paths = [root / record.name for record in level.files]
            rounds = [
                (seconds(check, root, arguments.decode), seconds(hash_all, paths)) for _ in range(arguments.rounds)
            ]
        verifying, hashing = (statistics.median(column) for column in zip(*rounds, strict=True))
        each = level.total_bytes / arguments.samples
        print(
            f"{resolution} px, {each / 1e3:.1f} KB a sample: {arguments.samples / verifying:,.0f} samples and "
            f"{level.total_bytes / verifying / 1e6:,.0f} MB per CPU-second; SHA-256 alone "
            f"{level.total_bytes / hashing / 1e6:,.0f} MB"
        )


if __name__ == "__main__":
    main()
