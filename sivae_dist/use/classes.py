"""Classes of a model by name or number: one for all images, or one for each."""

import difflib
from collections.abc import Sequence
from operator import index
from typing import SupportsIndex

import torch
from torch import Tensor

from data_pipelines.problems import did_you_mean

Classes = str | SupportsIndex | Sequence[str | SupportsIndex] | Tensor
"""A class by name or number, for all images; or one for each. A text is a name first, and a number where none is called
so."""

_LISTED = 10


def class_number(names: Sequence[str], wanted: str | SupportsIndex) -> int:
    """Number of a class. ValueError, with the nearest name, when there is none such."""
    if isinstance(wanted, str) and wanted in names:
        return names.index(wanted)
    is_number = not isinstance(wanted, str) or (wanted.isascii() and wanted.isdecimal())
    number = int(wanted) if isinstance(wanted, str) and is_number else -1 if isinstance(wanted, str) else index(wanted)
    if 0 <= number < len(names):
        return number
    near = difflib.get_close_matches(wanted, names, n=1) if isinstance(wanted, str) else []
    listed = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
    raise ValueError(f"there is no class {wanted!r}{did_you_mean(near)}; the model has: {listed}")


def class_numbers(names: Sequence[str], wanted: Classes, count: int) -> Tensor:
    """Labels int64 [count]. ValueError for a class that there is not, or another number of them."""
    if isinstance(wanted, Tensor):
        labels = wanted
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        labels = torch.tensor([class_number(names, one) for one in wanted], dtype=torch.int64)
    else:
        labels = torch.full((count,), class_number(names, wanted))
    sound = labels.shape == (count,) and labels.dtype in (torch.int64, torch.int32, torch.int16, torch.int8)
    if not sound or (count and (labels.min() < 0 or labels.max() >= len(names))):
        raise ValueError(f"labels must be [N] whole numbers from 0 to {len(names) - 1}")
    return labels.long()
