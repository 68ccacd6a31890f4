"""The contract of a feature extractor, in whose features samples are compared with real images.

To add one, write a class of ExtractorKind and put it into the list: `@EXTRACTORS.add("my-network")`. Then
`evaluation.extractor=my-network` chooses it, and values are named for it: `frechet_distance[my-network]`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Extractor:
    """A frozen network in evaluation mode on a device."""

    name: str
    """Of the network and, unless they are those of 2015, of its weights; with the layer unless it is the last."""
    sha256: str
    """Checksum of the weights."""
    layer: str
    """Dimensions of its features."""
    genuine: bool
    """Whether a distance in these features may be called FID or KID."""
    network: nn.Module
    """uint8 [B, 3, H, W] -> a sequence, of which the first is fp32 [B, dimensions]."""

    @property
    def dimensions(self) -> int:
        return int(self.layer)

    @property
    def label(self) -> str | None:
        """For Metric.reported."""
        return None if self.genuine else self.name

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, C, H, W] in 0..255, C of 1 or 3 -> fp32 [B, dimensions]."""
        features: Tensor = self.network(images.expand(-1, 3, -1, -1))[0]
        return features


class ExtractorChoice(Protocol):
    """The settings of the extractor; EvaluationSettings documents them."""

    @property
    def extractor(self) -> str: ...
    @property
    def layer(self) -> str: ...
    @property
    def weights(self) -> str | None: ...
    @property
    def sha256(self) -> str | None: ...


class ExtractorKind(ABC):
    """Finds and loads an extractor according to the settings."""

    def __init__(self, chosen: ExtractorChoice) -> None:
        self.chosen = chosen

    @property
    def genuine(self) -> bool:
        """Extractor.genuine, as far as it is known without the weights."""
        return False

    @property
    def label(self) -> str | None:
        """The beginning of Extractor.label, as far as it is known without the weights."""
        return None if self.genuine else self.chosen.extractor

    def weights(self) -> Path | None:
        """The file of weights, downloaded if need be; None for a kind that needs none. WeightsError without it."""
        return None

    def at_hand(self) -> bool:
        """Whether it can be loaded without a download."""
        return True

    @abstractmethod
    def load(self, device: torch.device) -> Extractor:
        """Loads it. WeightsError when its weights are missing or not the expected ones."""
