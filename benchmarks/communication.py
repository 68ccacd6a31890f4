"""What a process communicates in a training step, and how much of the step is still to come when it does.

    python -m benchmarks.communication [--config ffhq256] [--rows 8,32] [--processes 8,64] [--set KEY=VALUE ...]
                                       [--out FILE]

The first table is what `sivae_dist.train.communication` says: MB of gradients (and, with ZeRO, weights) of both
players, and MB that each process sends. The second is counted with DDP, in a step of one image on as many processes,
simulated by this one (torch's fake process group, whose collectives do nothing): the buckets of each player's gradients
in the order in which they are handed over, with their MB and the share of the update's floating-point operations that
is still to come, under which its reduction can hide.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.report import report
from sivae_dist.config.run_settings import RunSettings, load_config
from sivae_dist.engines import Engine
from sivae_dist.engines.settings import DdpSettings
from sivae_dist.process.processes import leave
from sivae_dist.step.schedule import Segment
from sivae_dist.train.communication import Collective, Collectives, communication
from sivae_dist.train.players import Players
from sivae_dist.train.tracing import Tracker, micro_batch

CPU = torch.device("cpu")
LR = 0.0015


@contextmanager
def simulated(count: int, rank: int = 0) -> Iterator[None]:
    """In here, this process is one of `count`; what a collective would receive from others stays as it was."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield
    finally:
        leave()


class Turn(NamedTuple):
    """One player's update, and its collectives."""

    noted: list[Collective]
    ready: list[int]
    """At each collective, how many parameters had got their gradient."""
    parameters: int
    """In use."""
    in_use: int
    """Their bytes."""
    whole: int
    """Bytes of all the player's parameters."""
    flops: int
    """Of the update."""

    @property
    def to_come(self) -> list[float]:
        """At each collective, the share of the update's operations that followed."""
        return [1 - one.flops / self.flops for one in self.noted]


def turns(settings: RunSettings, players: Players, segment: Segment, parts: int = 1) -> list[Turn]:
    """Both updates of a step that is not the first of its segment, with `parts` micro-batches of one image, among
    simulated processes."""
    players.prepare(segment)
    engines: list[Engine[Any, Any, Any]] = [players.encoder_engine, players.decoder_engine]
    for engine in engines:
        _hand_over(engine)
    x, cond, draws = micro_batch(settings, players.decoder, segment.resolution, segment.blending, 1)
    torch.manual_seed(0)
    for tensor in (x, draws.z, draws.eps, draws.noise, draws.mixing and draws.mixing.z):
        if tensor is not None:
            tensor.normal_()
    found: list[Turn] = []
    for _ in range(2):
        inputs: list[tuple[Any, ...]] = [(x, cond, draws)] * parts
        found = []
        for engine in engines:
            before: list[int] = []  # of each gradient, the collectives that had begun when it was ready
            with Tracker() as tracker:
                collectives = Collectives(tracker)
                hooks = _follow(engine, collectives, before)
                with collectives:
                    update = engine.update(inputs, LR, torch.ones((), dtype=torch.bool))
            for hook in hooks:
                hook.remove()
            assert bool(update.taken)
            if not found:  # the decoder's turn begins with what the encoder's has made
                inputs = [(x, turn.crossing, cond, draws) for turn in update.turns]
            in_use, whole = (sum(map(_bytes, of)) for of in (engine.parameters, engine.network.parameters()))
            ready = [sum(n <= k for n in before) for k in range(len(collectives.noted))]
            counts = (ready, len(engine.parameters), in_use, whole, tracker.flops)
            found.append(Turn(collectives.noted, *counts))
    return found


def _hand_over(engine: Engine[Any, Any, Any]) -> None:
    """DDP reads a sum off the operation that has made it, and the fake group's operations have none."""

    def reduce(state: None, bucket: GradBucket) -> Future[Tensor]:
        dist.all_reduce(bucket.buffer(), async_op=True)
        done: Future[Tensor] = Future()
        done.set_result(bucket.buffer())
        return done

    objective = getattr(engine, "objective", None)
    if isinstance(objective, DistributedDataParallel):
        objective.register_comm_hook(None, reduce)


def _follow(engine: Engine[Any, Any, Any], collectives: Collectives, before: list[int]) -> list[Any]:
    """Hooks on the gradients of DDP's parameters that fill `before`; ZeRO's have hooks of their own."""
    parameters: list[Any] = engine.parameters if isinstance(engine.settings, DdpSettings) else []

    def note(_: Tensor) -> None:
        before.append(len(collectives.noted))

    return [p.requires_grad_().register_post_accumulate_grad_hook(note) for p in parameters]


def _bytes(parameter: nn.Parameter) -> int:
    """Of all its values, with ZeRO 3 too."""
    return int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="ffhq256")
    parser.add_argument("--rows", type=_numbers, default=[8, 32], help="pixels, as 8,32")
    parser.add_argument("--processes", type=_numbers, default=[8, 64], help="as 8,64")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further settings")
    parser.add_argument("--out", type=Path, help="a file for the results")
    arguments = parser.parse_args()
    settings = load_config(arguments.config, ["data.path=unused", "device=cpu", *arguments.set])
    ddp = settings.model_copy(update={"engine": DdpSettings()})
    with report(arguments.out, "Communication of a training step", ("torch",)) as say:
        counts = " | ".join(f"sent by each of {count}" for count in arguments.processes)
        say(f"\nMB a step:\n\n| px | gradients summed | weights put together | {counts} |")
        say("|---|---|---|" + "---|" * len(arguments.processes))
        for resolution in settings.model.resolutions:
            rows = [communication(settings, resolution, count) for count in arguments.processes]
            sent = " | ".join(f"{row.sent / 1e6:.1f}" for row in rows)
            say(f"| {resolution} | {rows[0].reduced / 1e6:.1f} | {rows[0].gathered / 1e6:.1f} | {sent} |")
        say("\nHanded over with DDP, in MB (share of the update's operations still to come):\n")
        say("| px | player | buckets | mean share by bytes |\n|---|---|---|---|")
        for resolution in arguments.rows:
            with simulated(arguments.processes[0]):
                found = turns(ddp, Players(ddp, CPU), Segment(resolution, False, False))
            for player, turn in zip(("encoder", "decoder"), found, strict=True):
                pairs = list(zip((one.bytes for one in turn.noted), turn.to_come, strict=True))
                buckets = ", ".join(f"{size / 1e6:.1f} ({share:.1%})" for size, share in pairs)
                mean = sum(size * share for size, share in pairs) / turn.in_use
                say(f"| {resolution} | {player} | {buckets} | {mean:.1%} |")


if __name__ == "__main__":
    main()
