"""Files that would run code if they were unpickled."""

import pickle
from pathlib import Path
from typing import Any

import torch


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def write_bomb(path: Path, form: str, name: str) -> None:
    """Weights in the form of `torch` or of a plain `pickle`, of which the tensor `name` makes the file `exploded` in
    the working directory."""
    if form == "torch":
        torch.save({name: Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({name: Bomb()}, protocol=2))
