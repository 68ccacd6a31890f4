"""`make demo`: the whole workflow on drawn faces, on two processes (one if there is one GPU), killed once and resumed.

Every step is a command that a user could type, and is shown before it runs. Existing results are reused.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from sivae_dist.process.devices import check_architecture, usable_gpus
from sivae_dist.process.durations import duration
from sivae_dist.process.output import outlast_watchers
from sivae_dist.run.directory import RunDirectory
from sivae_dist.run.jsonl import last_row

IMAGES = Path("data/faces-drawn")
DATA = Path("data/faces")
RUN = RunDirectory(Path("runs/demo"))
FACES, TEST = 6000, 368
KILL_AT = 20_000
"""Images seen at which the training processes are killed, in the middle of the 16 px phase."""
PICTURES: dict[str, tuple[object, ...]] = {
    "samples": ("sample", RUN.path),
    "reconstructions": ("reconstruct", RUN.path, "--count", 24),
    "interpolation": ("interpolate", RUN.path, 7, 40, 33, 6),
    "growth": ("growth", RUN.path),
    "curves": ("curves", RUN.path),
}
PATIENCE = 600
"""Seconds to wait for KILL_AT before giving up."""


def sivae(*arguments: object) -> list[str]:
    """The command line for `sivae ...`, shown as a user would type it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ sivae {shlex.join(words)}", flush=True)
    return [sys.executable, "-m", "launch.cli", *words]


def run(*arguments: object) -> None:
    subprocess.run(sivae(*arguments), check=True)


def train_until_killed(*arguments: object) -> None:
    """Starts training in its own process group and kills the whole group at KILL_AT images."""
    process = subprocess.Popen(sivae(*arguments), start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while images_seen() < KILL_AT:
            if process.poll() is not None:
                raise SystemExit(f"error: training ended by itself with code {process.returncode}")
            if time.monotonic() > deadline:
                raise SystemExit(f"error: {KILL_AT:,} images were not reached in {duration(PATIENCE)}")
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print(
        f"\n-- killed with SIGKILL after {images_seen():,} images; the same command resumes from the last checkpoint --"
    )


def place() -> tuple[str, int]:
    """The device and the number of processes: two, or one if there is a single GPU."""
    try:
        gpus = usable_gpus("auto")
        for number in range(min(2, gpus)):
            check_architecture(torch.device("cuda", number))
    except ValueError as error:
        print(f"note: {error}. The demo uses the CPU.")
        return "cpu", 2
    return "auto", min(2, gpus or 2)


def images_seen() -> int:
    """Images seen according to the last complete row of the run's metrics."""
    row = last_row(RUN.metrics)
    return 0 if row is None else int(row["images"])


def main() -> None:
    outlast_watchers()
    if shutil.which("sivae") is None:
        print(f'# to type these commands yourself: export PATH="{Path(sys.executable).parent}:$PATH"')
    if not IMAGES.exists():
        run("data", "draw", "faces", IMAGES, "--count", FACES)
    if not DATA.exists():
        run("data", "prepare", IMAGES, DATA, "--resolution", 32, "--array-max-resolution", 8, "--test", TEST)
    device, processes = place()
    overrides = () if device == "auto" else (f"device={device}",)
    command = ("train", "demo", *overrides, "--data", DATA, "--run-dir", RUN.path, "--nproc", processes)
    if images_seen() < KILL_AT:
        train_until_killed(*command)
    run(*command)
    for name, arguments in PICTURES.items():
        options = () if device == "auto" or name == "curves" else ("--device", device)
        run(*arguments, *options, "--out", RUN.figures / f"{name}.png")
    print(f"\npictures:         {RUN.figures}")
    print(f"curves and grids: tensorboard --logdir {RUN.path}")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
