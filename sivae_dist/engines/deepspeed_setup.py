"""DeepSpeed as a library: loaded late, on our process group, and without compiling anything."""

import logging
import os
import warnings
from types import ModuleType

import torch
import torch.distributed as dist

from sivae_dist.process import processes
from sivae_dist.step.optimizer import EagerAdam


def load(device: torch.device) -> ModuleType:
    """The library, ready for `deepspeed.initialize`; all processes call it together."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # it would take a GPU for a run on the CPU
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index or 0)  # by which it chooses a GPU
    os.environ.setdefault("LOCAL_RANK", "0")  # of a process alone, for which no launcher has set it
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # what it calls is about to be renamed
    import deepspeed
    import deepspeed.comm
    import deepspeed.ops
    import deepspeed.runtime.zero.utils

    deepspeed.utils.logger.setLevel(logging.WARNING)
    if deepspeed.accelerator.get_accelerator().device_name() != device.type:
        raise ValueError(f"DS_ACCELERATOR={os.environ['DS_ACCELERATOR']} does not go with device={device.type}")
    # On a CPU it would compile reductions for inference, which training never calls: a minute, a compiler, and a wait
    # for ever when another process was killed while it compiled them. It compiles what is named here.
    deepspeed.ops.__compatible_ops__ = {}
    if EagerAdam not in (tested := deepspeed.runtime.zero.utils.ZERO_SUPPORTED_OPTIMIZERS):
        tested.append(EagerAdam)  # it warns of all but the very types that it lists, torch's Adam among them
    processes.join_alone(device)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    processes.leave_through(deepspeed.comm.destroy_process_group)
    if deepspeed.utils.groups._WORLD_GROUP is None:  # its own would lose patience before the watchdog does
        deepspeed.utils.groups._WORLD_GROUP = processes.new_group()
    return deepspeed
