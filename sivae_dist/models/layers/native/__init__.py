"""Element-wise parts of the layers for CPUs, in C++ that the machine's own compiler makes when it is first needed.

One file for all shapes and types, a few seconds of compilation, kept for later runs. Without a compiler `usable` is
false and layers use torch's operations.
"""

from sivae_dist.models.layers.native.library import usable
from sivae_dist.models.layers.native.operations import (
    activate_and_normalize,
    activate_and_normalize_backward,
    blur,
    takes,
)

__all__ = ["activate_and_normalize", "activate_and_normalize_backward", "blur", "takes", "usable"]
