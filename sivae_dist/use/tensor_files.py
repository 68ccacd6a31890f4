"""Safetensors files that depend on what is in them alone."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Writes tensors with metadata: the same bytes for the same contents, readable by whom the umask says.

    safetensors' own save_file puts the metadata in another order in every process, and makes files that only their
    owner can read.
    """
    content = memoryview(save({name: tensor.contiguous() for name, tensor in tensors.items()}, dict(about)))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    header["__metadata__"] = dict(sorted(about.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors' data stays aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        file.write(content[start:])
