"""What launchers leave in the environment. Without torch, for commands that start no process."""

import os
from collections.abc import MutableMapping

_NAMES = frozenset(
    {
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "NODE_RANK",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "ROLE_RANK",
        "ROLE_NAME",
        "ROLE_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SIVAE_LAUNCHER",
    }
)
_PREFIX = "TORCHELASTIC_"


def forget_launchers(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Removes what describes a group of processes to torch, and returns it.

    Kubernetes' PyTorchJob, AzureML and SageMaker set it in every container, and others leave it behind with `export`.
    A command that starts its processes itself must not take it for its own: it would wait for processes that nobody
    starts. `python -m launch.worker`, the process of any launcher, does not call this.
    """
    found = [name for name in environment if name in _NAMES or name.startswith(_PREFIX)]
    return {name: environment.pop(name) for name in found}
