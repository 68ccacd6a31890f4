"""The conditions that a network receives besides its input."""

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F


class Stage(NamedTuple):
    """The stage of a growing network.

    `blend` is a 0-dimensional tensor in [0, 1], the weight of the newest blocks, while they are blended in, and None
    otherwise. It is a tensor so that a compiled network is not compiled again when its value changes.
    """

    resolution: int
    blend: Tensor | None = None


class Mixing(NamedTuple):
    """Style mixing: layers from `cutoff` [B] (int64) on take their style from the latent `z` [B, latent]."""

    z: Tensor
    cutoff: Tensor

    def behind(self, z: Tensor) -> Self:
        """The same for a pass in which `z` [N, latent], unmixed, comes before these."""
        beyond = self.cutoff.new_full((len(z),), torch.iinfo(self.cutoff.dtype).max)  # no layer is that high
        return self._replace(z=torch.cat((z, self.z)), cutoff=torch.cat((beyond, self.cutoff)))


class Cond(NamedTuple):
    """The conditions that a network receives besides its input. Objectives pass it on and do not look inside."""

    stage: Stage
    label: Tensor | None = None
    """int64 [B], where the model has classes."""
    mixing: Mixing | None = None
    """Of decodings, where the model has styles."""
    extra: Mapping[str, Tensor] = {}
    """The further inputs of `ModelSettings.inputs`, by name, each as x [B, *shape]: in passes of real samples in
    training, and nowhere else."""

    def of_generated(self) -> Self:
        """For a decoding, and for a pass of what was generated: further inputs belong to real samples alone."""
        return self._replace(extra={}) if self.extra else self

    def twice(self) -> Self:
        """For a pass of 2B generated samples, or a decoding of as many, with the labels of B."""
        one = self.of_generated()
        return one if one.label is None else one._replace(label=one.label.repeat(2))

    def split(self, count: int, parts: int) -> list[Self]:
        """For `parts` micro-batches of `count` samples."""
        assert self.mixing is None
        labels = [None] * parts if self.label is None else self.label.split(count)
        inputs = {name: x.split(count) for name, x in self.extra.items()}
        return [
            self._replace(label=label, extra={name: some[part] for name, some in inputs.items()})
            for part, label in enumerate(labels)
        ]


def blend_real(x: Tensor, blend: Tensor | None) -> Tensor:
    """Real images [B, C, H, W] as a network in transition sees them: mixed with their own half resolution."""
    if blend is None:
        return x
    half = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
    return torch.lerp(half, x, blend.to(x.dtype))
