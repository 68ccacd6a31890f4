"""How long training stands still for a checkpoint: in the background against in the foreground, in one run.

    python -m benchmarks.checkpoint [--config ffhq256] [--processes 2] [--saves 7] [--dir DIR]

Every process has the tensors of a real run (weights, averages, Adam's moments). Saves alternate between background and
foreground, each waited for before the next, so that noise of the machine meets both. Prints the medians and the ratio.
"""

import argparse
import os
import socket
import statistics
import tempfile
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from benchmarks.machine import machine
from sivae_dist.checkpoint import CheckpointFolder, CheckpointSettings
from sivae_dist.checkpoint.saver import CheckpointSaver
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.process.processes import join, leave, rank
from sivae_dist.train.players import Players

CPU = torch.device("cpu")


def tensors_of(settings: RunSettings) -> dict[str, Tensor]:
    """What such a run would save after all parameters have been trained."""
    players = Players(settings, CPU)
    tensors = players.tensors()
    for name in ("encoder", "decoder"):
        for key, parameter in getattr(players, name).named_parameters():
            tensors[f"{name}_optim.exp_avg.{key}"] = torch.randn_like(parameter)
            tensors[f"{name}_optim.exp_avg_sq.{key}"] = torch.rand_like(parameter)
            tensors[f"{name}_optim.step.{key}"] = torch.ones(())
    return {name: tensor.detach() for name, tensor in tensors.items()}


def work(index: int, arguments: argparse.Namespace, port: int) -> None:
    os.environ |= {
        "RANK": str(index), "WORLD_SIZE": str(arguments.processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    torch.set_num_threads(1)
    join(CPU, timedelta(minutes=10))
    tensors = tensors_of(load_config(arguments.config, ["data.path=unused", "device=cpu"]))
    with tempfile.TemporaryDirectory(dir=arguments.dir) as shared:
        name = [shared]
        if arguments.processes > 1:
            torch.distributed.broadcast_object_list(name)
        folder = CheckpointFolder(Path(name[0]) / "checkpoints")
        savers = {
            background: CheckpointSaver(folder, CheckpointSettings(background=background), CPU)
            for background in (True, False)
        }
        blocked: dict[bool, list[float]] = {True: [], False: []}
        whole: dict[bool, list[float]] = {True: [], False: []}
        for save in range(2 * (arguments.saves + 1)):
            background = save % 2 == 0
            savers[background].save(save + 1, tensors, None)
            savers[background].wait()
            (saved,) = savers[background].ended()
            if saved.error is not None:
                raise saved.error
            if save >= 2:  # the first of each makes its buffers
                blocked[background].append(saved.blocked)
                whole[background].append(saved.seconds)
        if rank() == 0:
            report(arguments, saved.bytes, blocked, whole)
        for saver in savers.values():
            saver.close()
        if arguments.processes > 1:
            torch.distributed.barrier()
    leave()


def report(
    arguments: argparse.Namespace, size: int, blocked: dict[bool, list[float]], whole: dict[bool, list[float]]
) -> None:
    foreground = statistics.median(whole[False])
    stands = statistics.median(blocked[True])
    print(
        f"{arguments.config}, {size / 1e6:.0f} MB, {arguments.processes} process(es), median of {arguments.saves} saves"
    )
    print(f"{machine()}, torch {torch.__version__}")
    print(f"foreground: training stands still for {foreground:.3f} s")
    print(f"background: training stands still for {stands:.4f} s; on disk after {statistics.median(whole[True]):.3f} s")
    print(f"ratio: {100 * stands / foreground:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--dir", help="where to write; the system's temporary folder by default")
    arguments = parser.parse_args()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    spawn(work, (arguments, port), arguments.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
