"""Perceptual distances of reconstructions: like LPIPS (Zhang et al. 2018), but with plain means, so never called so."""

from typing import Any

import torch
from torch import Tensor

from data_pipelines.dataset import Dataset
from sivae_dist.evaluation.metrics.base import Found, MeanMetric, Metric, Reconstructions
from sivae_dist.perceptual.images import is_image
from sivae_dist.perceptual.weights import VggWeights, find_genuine, random_weights


class OfVgg(Metric):
    """Made of the distance of images in features of VGG16 (perceptual/vgg.py), with its authors' weights."""

    def weights(self) -> VggWeights:
        """WeightsError when they cannot be had."""
        return find_genuine()

    def prepare(self, device: torch.device) -> None:
        from sivae_dist.perceptual.vgg import VggDistance  # takes seconds

        weights = self.weights()
        self._digest = weights.digest
        self._network = VggDistance(weights).to(device)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """[B, C, R, R] and the same, in [0, 1] -> [B]."""
        distances: Tensor = self._network(2 * a.float() - 1, 2 * b.float() - 1)
        return distances

    def details(self, found: Found) -> dict[str, Any]:
        return {**super().details(found), "vgg_sha256": self._digest}

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        shapes = data.spec.shapes.values()
        return super().lacks(data) or (None if all(map(is_image, shapes)) else "images of one or three channels")


class OfRandomVgg(OfVgg):
    """The same with random weights of a fixed seed, which need no file."""

    def weights(self) -> VggWeights:
        return random_weights()


class PerceptualDistance(OfVgg, MeanMetric[Reconstructions]):
    """Mean distance of reconstructions from their images."""

    needs = (Reconstructions,)

    def each(self, batch: Reconstructions) -> Tensor:
        return self.between(batch.reconstructed, batch.real)


class RandomPerceptualDistance(OfRandomVgg, PerceptualDistance):
    """With random weights."""
