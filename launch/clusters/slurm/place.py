"""The identity of this process (job, rank, node), from SLURM's environment."""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmPlace:
    job: str
    """The id used by squeue and scontrol; that of an array's task is like 123_4."""
    restart: int
    """Number of times that it was requeued."""
    index: int
    """Index of the array's task; 0 outside of arrays."""
    rank: int
    local_rank: int
    world_size: int
    node: str
    """A name of this node that other nodes can resolve."""

    @classmethod
    def from_environment(cls) -> "SlurmPlace":
        """From the environment of a task, or of a batch script, which has no rank and counts as rank 0."""
        env = os.environ
        array, index = env.get("SLURM_ARRAY_JOB_ID"), env.get("SLURM_ARRAY_TASK_ID")
        return cls(
            job=f"{array}_{index}" if array else env["SLURM_JOB_ID"],
            restart=int(env.get("SLURM_RESTART_COUNT", "0")),
            index=int(index or 0) if array else 0,
            rank=int(env.get("SLURM_PROCID", "0")),
            local_rank=int(env.get("SLURM_LOCALID", "0")),
            world_size=int(env.get("SLURM_NTASKS", "1")),
            node=_resolvable(env.get("SLURMD_NODENAME", "")),
        )


def _resolvable(name: str) -> str:
    try:
        socket.getaddrinfo(name, None)
    except OSError:  # SLURM's name of a node may differ from its host name
        return socket.gethostname()
    return name
