"""What the tests of checkpoints share: tensors of all kinds, savers, and a look at what lies on disk."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae_dist.checkpoint import CheckpointFolder, CheckpointSettings, Meta
from sivae_dist.checkpoint.saver import CheckpointSaver
from tests.helpers import CPU


def some_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Of several types and layouts; the views share no memory."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(4, 3, 3, 3, generator=generator).contiguous(memory_format=torch.channels_last),
        "a.step": torch.tensor(7.0),
        "b.weight": torch.randn(5, 2, generator=generator, dtype=torch.float64),
        "b.part": torch.randn(6, 6, generator=generator)[:, 2:4],
        "c.half": torch.randn(9, generator=generator).bfloat16(),
        "c.none": torch.empty(3, 0),
    }


def some_meta(**changes: Any) -> Meta:
    """What a run would have saved."""
    return Meta(**{"phase": 0, "resolution": 8, "blending": False, "blend": 1.0, "seed": 0, "data": "digest"} | changes)


def saver_of(folder: Path, **settings: Any) -> CheckpointSaver:
    return CheckpointSaver(CheckpointFolder(folder), CheckpointSettings(**settings), CPU)


def saved(folder: Path, *images: int, **settings: Any) -> Path:
    """The last of some finished checkpoints, each with the tensors that its number makes."""
    saver = saver_of(folder, background=False, **settings)
    for number in images:
        saver.save(number, some_tensors(number), some_meta(phase=number))
        saver.check()
    saver.close()
    return saver.folder.final(images[-1])


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


def safetensors(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values of a file, by the format's specification: 8 bytes of length, then JSON, then the tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    header, values = json.loads(content[8 : 8 + length]), content[8 + length :]
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    assert max((entry["data_offsets"][1] for entry in entries.values()), default=0) == len(values)
    return entries, values


def names(folder: Path) -> list[str]:
    """What lies directly in a folder."""
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, at: int, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= bit
    path.write_bytes(content)


def shard(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))
