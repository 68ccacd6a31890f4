"""Which process of which job this is, from SLURM's environment."""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmPlace:
    job: str
    """What squeue and scontrol call it; a task of an array has an id of its own, like 123_4."""
    restart: int
    """How often it was requeued."""
    index: int
    """Of the array's task; 0 outside of arrays."""
    rank: int
    local_rank: int
    world_size: int
    node: str
    """A name of this node under which others find it."""

    @classmethod
    def from_environment(cls) -> "SlurmPlace":
        """As a task has it, or as a batch script has it, which is no task but stands at rank 0 of one."""
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
    except OSError:  # SLURM's name of a node need not be its host's
        return socket.gethostname()
    return name
