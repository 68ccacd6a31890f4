"""Numerics of a GPU: the precision of fp32 operations, and whether the same inputs give the same bits.

On a CPU none of this changes anything: fp32 is IEEE there, and the same inputs give the same bits.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp64"]

_ALWAYS = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Without it, memory freed by one resolution can hardly be reused by the next, which needs larger pieces."""

_DETERMINISTIC = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # or cuBLAS splits sums by what memory is free
    "NCCL_ALGO": "Ring",  # the order of a sum does not depend on what NCCL takes for fastest
    "NCCL_NVLS_ENABLE": "0",  # nor do switches sum
}


def set_environment(deterministic: bool) -> None:
    """Sets variables that libraries read once, when CUDA starts; to be called before that. A user's own values stay."""
    values = _ALWAYS | (_DETERMINISTIC if deterministic else {})
    if "PYTORCH_CUDA_ALLOC_CONF" in os.environ:  # the former name, which has precedence
        del values["PYTORCH_ALLOC_CONF"]
    for name, value in values.items():
        os.environ.setdefault(name, value)


def configure(precision: Precision, deterministic: bool, device: torch.device) -> None:
    """Makes this process compute on `device` as `engine.precision` and `engine.deterministic` say.

    An operation that has no deterministic form is an error from then on (RuntimeError naming it), so that the promise
    is kept or the run ends. ValueError for a GPU that has no bf16.
    """
    if precision == "bf16" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError(
            f"engine.precision=bf16 needs an Ampere GPU (sm_80) or a later one, and {device} is "
            f"{torch.cuda.get_device_name(device)}: set engine.precision=fp32"
        )
    _allow_tf32(convolutions=precision == "tf32", products=precision == "tf32")
    if device.type == "cpu":
        return
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = not deterministic  # shapes are the same in all steps of a segment
    if deterministic != torch.are_deterministic_algorithms_enabled():  # with Inductor's, which it imports
        torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # we read none


@contextmanager
def ieee() -> Iterator[None]:
    """A context in which fp32 is IEEE single precision, whatever training uses: for values that are to be compared."""
    # Asked by operation: the getter of cudnn.allow_tf32 raises when convolutions and RNNs differ.
    before = {
        "convolutions": torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined]
        "products": torch.backends.cuda.matmul.fp32_precision == "tf32",
    }
    _allow_tf32(convolutions=False, products=False)
    try:
        yield
    finally:
        _allow_tf32(**before)


def _allow_tf32(*, convolutions: bool, products: bool) -> None:
    # By these setters alone: mixed with the newer ones by operation, torch refuses to say what holds.
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products
