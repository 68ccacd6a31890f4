"""The form in which layers are computed: equal in exact arithmetic, not in rounding, and different in speed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from sivae_dist.models.layers.native import library, operations

Form = Literal["plain", "fused", "native", "compiled"]
"""`plain`: one operation after the other, as the paper writes them.
`fused`: autograd functions of torch's operations, which save and move less.
`native`: the same functions, their element-wise parts in C++ on CPUs.
`compiled`: those of `fused`, written so that torch.compile finds the most to fuse."""

_form: Form | None = None


def fastest() -> Form:
    """The fastest that this machine can compute."""
    return "native" if library.usable() else "fused"


def current() -> Form:
    """The form that this process uses."""
    return _form or fastest()


def use(form: Form | None) -> None:
    """Chooses the form of all later passes of this process; None: the fastest."""
    global _form
    _form = form


@contextmanager
def using(form: Form | None) -> Iterator[None]:
    """Chooses it for the passes in here."""
    before = _form
    use(form)
    try:
        yield
    finally:
        use(before)


def is_plain() -> bool:
    return _form == "plain"


def is_compiled() -> bool:
    return _form == "compiled"


def is_native(x: Tensor) -> bool:
    """Whether tensors like this, maps [B, C, H, W] or weights, are computed in C++. Others are as in `fused`."""
    format = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return (
        x.device.type == "cpu"
        and x.dtype in operations.TYPES
        and x.is_contiguous(memory_format=format)
        and current() == "native"
    )
