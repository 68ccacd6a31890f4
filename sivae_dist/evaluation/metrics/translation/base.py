"""What metrics of image translation share."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.dataset import Dataset, SampleError
from sivae_dist.evaluation.metrics.base import Metric, Trained
from sivae_dist.use.pretrained import TRANSLATION

_AT_ONCE = 256


class TranslationMetric(Metric):
    """Of a model whose z has the groups `class` and `content`."""

    needs = (Trained,)
    groups = TRANSLATION

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        return None if data.spec.channels and data.spec.classes else "labelled images"


def labels_of(data: Dataset, numbers: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels [N] of samples, read at the smallest stage."""
    labels = data.samples(min(data.spec.shapes), numbers).y
    assert labels is not None
    return labels.cpu().numpy()


def images_of(trained: Trained, numbers: NDArray[np.int64]) -> Tensor:
    """Images [N, C, R, R] in [-1, 1] at the model's resolution, in its type. SampleError for a damaged one."""
    found = trained.data.samples(trained.model.stage.resolution, numbers)
    for fault in found.damaged.values():
        raise SampleError(fault)
    return found.x.to(trained.model.dtype)


def codes_of(trained: Trained, numbers: NDArray[np.int64]) -> dict[str, Tensor]:
    """Means of q(z|x) of samples by group, fp32 [N, dimensions] on the CPU; each encoder sees the image itself."""
    parts = np.split(numbers, range(_AT_ONCE, len(numbers), _AT_ONCE))
    mu = torch.cat([trained.model.encode(images_of(trained, part))[0].float().cpu() for part in parts])
    return trained.model.groups(mu)
