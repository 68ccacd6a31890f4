"""Distances between images, which objectives use as the reconstruction error L_rec.

To add one, subclass `Distance` and put the class into the list, under the name by which a configuration chooses it:

    @DISTANCES.add("huber")
    class Huber(Distance):
        def forward(self, target: Tensor, output: Tensor) -> Tensor:
            return torch.nn.functional.huber_loss(output, target, reduction="none").flatten(1).sum(1)

`objective.reconstruction=huber` then works wherever the module that says so has been imported.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from data_pipelines.choices import Registry

_PROBABILITY_EPS = 1e-6


class Distance(nn.Module, ABC):
    """[B, ...] and [B, ...] -> [B], summed over an image, in the precision of its arguments (fp32 or wider).

    A class is made without arguments, once for each objective, on every process and for the trace of the memory alike.
    Gradients must reach both arguments. Parameters and buffers are allowed: they are frozen, follow the networks'
    device and precision, and are outside what is trained, averaged, sent and saved. So their values must be the same
    on all processes and after a restart: read them from a file, or draw them from a generator with a seed of its own.
    """

    bounded: ClassVar[bool] = False
    """Whether both arguments must lie inside [-1, 1]. Images do; a run whose decoder's need not is refused."""

    @abstractmethod
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        """The distances [B] of [B, ...] from [B, ...]."""


class SquaredError(Distance):
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        return (output - target).square().flatten(1).sum(1)


class AbsoluteError(Distance):
    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        return (output - target).abs().flatten(1).sum(1)


class CrossEntropy(Distance):
    """Cross entropy in nats, with values read as probabilities (x + 1) / 2."""

    bounded = True

    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        probability = ((output + 1) / 2).clamp(_PROBABILITY_EPS, 1 - _PROBABILITY_EPS)
        truth = (target + 1) / 2
        error = -(truth * probability.log() + (1 - truth) * torch.log1p(-probability))
        return error.flatten(1).sum(1)


DISTANCES: Registry[type[Distance]] = Registry(
    "distance", {"mse": SquaredError, "l1": AbsoluteError, "bce": CrossEntropy}
)
