"""What the server that forks the tests' processes has imported (tests/helpers.py), so that none of them has to.

Runs of several processes need torch's compiler for DistributedDataParallel, and those of engine.name=zero all of
DeepSpeed: imports of seconds, for a run of some tenths.
"""

import importlib
import os
import warnings

OURS = ("sivae_dist.train.trainer", "sivae_dist.use.loading", "tests.engines")
TORCH = ("torch.utils.tensorboard", "torch._dynamo")
DEEPSPEED = (
    "deepspeed.comm", "deepspeed.ops", "deepspeed.runtime.zero.muon.muon_optimizer", "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
)  # fmt: skip

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed decides at once, and the runs of these processes are on the CPU
with warnings.catch_warnings(action="ignore", category=FutureWarning):
    for _module in (*OURS, *TORCH, *DEEPSPEED):
        importlib.import_module(_module)
del os.environ["DS_ACCELERATOR"]
