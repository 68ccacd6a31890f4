"""Many processes simulated by one: collectives are called and do nothing (torch's fake process group)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from sivae_dist.engines import Engine
from sivae_dist.process.processes import leave
from sivae_dist.train.players import Players


@contextmanager
def simulated(count: int, rank: int = 0) -> Iterator[None]:
    """In here, this process is one of `count`; what a collective would receive from others stays as it was."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=count)
    try:
        yield
    finally:
        leave()


def hand_over(players: Players) -> None:
    """Lets DDP reduce gradients over simulated processes, after `Players.prepare`.

    Its own way reads results off an operation, and the fake group's operations have none.
    """
    engine: Engine[Any, Any, Any]
    for engine in (players.encoder_engine, players.decoder_engine):
        objective = getattr(engine, "objective", None)
        if isinstance(objective, DistributedDataParallel):
            objective.register_comm_hook(None, _reduce)


def _reduce(state: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    dist.all_reduce(bucket.buffer(), async_op=True)
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done
