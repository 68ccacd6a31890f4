"""Environment variables set by launchers. Does not import torch, for commands that start no processes."""

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
    """Removes the variables that describe a process group to torch, and returns them.

    Kubernetes' PyTorchJob, AzureML and SageMaker set them in every container, and users leave them behind with
    `export`. A command that starts its own processes must not use them, or it would wait for processes that nobody
    starts. `python -m launch.worker`, which any launcher starts, does not call this.
    """
    found = [name for name in environment if name in _NAMES or name.startswith(_PREFIX)]
    return {name: environment.pop(name) for name in found}
