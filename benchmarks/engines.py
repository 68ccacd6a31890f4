"""Memory of each process with DDP and every stage of ZeRO.

    python -m benchmarks.engines [--config ffhq256] [--resolution 64] [--processes 2 4] [--steps 2] [--out FILE]

Every process takes one image through both players' updates of the warm-up, at a resolution whose activations leave the
weights to be seen. "Held" is what a process has between two steps beyond what it had before the networks were made;
"step" the most that it has during one, "start" the most before the first one. All is resident memory, of the process
with the most.
"""

import argparse
import ctypes
import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import spawn

from benchmarks.report import report
from sivae_dist.config.run_settings import load_config
from sivae_dist.engines.settings import ZeroSettings
from sivae_dist.models import Cond, Stage
from sivae_dist.objectives import Draws
from sivae_dist.process.processes import everyone, leave, rank
from sivae_dist.step.schedule import Segment
from sivae_dist.train.players import Players

CPU = torch.device("cpu")
ENGINES = {"DDP": "{name: ddp}"} | {f"ZeRO {stage}": f"{{name: zero, stage: {stage}}}" for stage in (0, 1, 2, 3)}


def resident(key: str) -> float:
    """MB of this process: VmRSS now, VmHWM at most since `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1e3


def forget() -> None:
    """Begins the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def work(index: int, arguments: argparse.Namespace, engine: str, count: int, meeting: str) -> None:
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=count)
    settings = load_config(arguments.config, ["data.path=unused", "device=cpu", f"engine={engine}"])
    if isinstance(settings.engine, ZeroSettings):
        from sivae_dist.engines import deepspeed_setup

        deepspeed_setup.load(CPU)
    before = resident("VmRSS")
    forget()
    players = Players(settings, CPU)
    players.prepare(Segment(arguments.resolution, blending=False, warming_up=True))
    size = (1, *settings.model.shape(arguments.resolution))
    x, allowed = torch.rand(size), torch.ones((), dtype=torch.bool)
    cond = Cond(Stage(arguments.resolution))
    latent = settings.model.latent
    noise = torch.randn(1, 4, players.decoder.noise_size(arguments.resolution))
    draws = Draws(torch.randn(1, latent), torch.randn(1, 3, latent), noise)
    start = resident("VmHWM")
    for _ in range(arguments.steps):
        forget()
        encoder = players.encoder_engine.update([(x, cond, draws)], 0.001, allowed)
        (z,) = (turn.crossing for turn in encoder.turns)
        players.decoder_engine.update([(x, z, cond, draws)], 0.001, encoder.taken)
        players.average(count)
        del encoder, z
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    figures = everyone(lambda: (resident("VmRSS") - before, resident("VmHWM") - before, start - before))
    if rank() == 0:
        held, step, start = (max(values) for values in zip(*figures, strict=True))
        parameters = players.full_size / 16e6
        Path(f"{meeting}.figures").write_text(f"{parameters:.1f} {held:.0f} {step:.0f} {start:.0f}")
    leave()


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    for count in arguments.processes:
        say(f"\n{count} processes:\n\n| engine | held, MB | step, MB | start, MB |\n|---|---|---|---|")
        for name, engine in ENGINES.items():
            with tempfile.TemporaryDirectory() as folder:
                meeting = f"{folder}/meeting"
                spawned: Any = spawn  # it has no annotations
                spawned(work, (arguments, engine, count, meeting), count)
                parameters, held, step, start = Path(f"{meeting}.figures").read_text().split()
            say(f"| {name} | {held} | {step} | {start} |")
    say(f"\n{parameters} million parameters, {4 * float(parameters):.0f} MB as float32.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--resolution", type=int, default=64)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 17)  # what a process gives back is no longer its own
    with report(arguments.out, "Engines", ("torch", "deepspeed")) as say:
        measure(arguments, say)


if __name__ == "__main__":
    main()
