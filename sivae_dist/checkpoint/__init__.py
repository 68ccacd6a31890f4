"""Checkpoints: one format for every engine, written by all processes, without pickle.

    checkpoints/images-000000600000/
        shard-00001-model-00001-of-00001.safetensors   each process's share of the tensors
        manifest.json                                  everything that is no tensor, and every file's size and sha256

A checkpoint is written under a temporary name and renamed when it is complete, so one that has its name is whole.

Here is what reads them. What writes them (saver.py) imports torch.distributed.checkpoint, which takes as long as torch
itself.
"""

from sivae_dist.checkpoint.files import Checkpoint, DamagedError
from sivae_dist.checkpoint.folder import CheckpointFolder, kept_of
from sivae_dist.checkpoint.meta import Meta
from sivae_dist.checkpoint.settings import CheckpointSettings

__all__ = [
    "Checkpoint",
    "CheckpointFolder",
    "CheckpointSettings",
    "DamagedError",
    "Meta",
    "kept_of",
]
