"""What one code tells of the other: accuracy of a small classifier of classes that sees content codes, and the reverse.

A code that is disentangled says nothing of the other factor, so that the classifier is right as often as chance; its
accuracy on the code that should say it stands beside it. Codes are the encoders' means of training images, whose
classes the encoders know; half of them train the classifier, the others test it. Each dimension is divided by its
deviation, so that also what lies far below the noise of q(z|x), which hides it from the decoder, is found.
"""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from data_pipelines.dataset import Dataset
from data_pipelines.streams import stream
from sivae_dist.evaluation.metrics.base import Found, Trained
from sivae_dist.evaluation.metrics.translation.base import TranslationMetric, codes_of, labels_of

IMAGES = 6_000
"""Training images whose codes are used, at most."""
UNITS = 256
EPOCHS = 40
BATCH = 100
LR = 1e-3


class Probe(TranslationMetric):
    """Share of images whose factor a classifier finds by the code of the other one."""

    factor: ClassVar[str]
    """`class` or `content`."""
    code: ClassVar[str]
    """The group of z that it sees."""

    def value(self, found: Found) -> float:
        return self._accuracy(found.trained, self.code)

    def details(self, found: Found) -> dict[str, Any]:
        known = _probed(found.trained).known[self.factor]
        own = self._accuracy(found.trained, self.factor)
        chance = known.bincount().max().item() / len(known)
        return {"images": len(known), "kinds": len(known.unique()), "chance": chance, "from_own_code": own}

    def _accuracy(self, trained: Trained, code: str) -> float:
        probed = _probed(trained)
        return accuracy(probed.codes[code], probed.known[self.factor], trained.seed)


class Probed(NamedTuple):
    """Training images in a random order."""

    codes: dict[str, Tensor]
    """By group of z, fp32 [N, dimensions]."""
    known: dict[str, Tensor]
    """Their classes, and contents where these have names, as numbers from 0, int64 [N]."""


def _probed(trained: Trained) -> Probed:
    """Up to IMAGES, where contents have names of those that have one; the same for both probes and either code."""
    return trained.once("probed", lambda: _read(trained))


def _read(trained: Trained) -> Probed:
    contents = trained.data.contents()
    drawn = stream(trained.seed, "probe", 0).permutation(trained.data.train)
    numbers = np.array([number for number in drawn if contents is None or contents[number] is not None][:IMAGES])
    known = {"class": _as_numbers(labels_of(trained.data, numbers))}
    if contents is not None:
        known["content"] = _as_numbers(np.array([contents[number] or "" for number in numbers]))
    return Probed(codes_of(trained, numbers), known)


def _as_numbers(kinds: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.unique(kinds, return_inverse=True)[1])


class ClassFromContent(Probe):
    """Of classes by content codes."""

    factor, code = "class", "content"


class ContentFromClass(Probe):
    """Of contents by class codes."""

    factor, code = "content", "class"

    @classmethod
    def lacks(cls, data: Dataset) -> str | None:
        return super().lacks(data) or ("images whose contents have names" if data.contents() is None else None)


def accuracy(codes: Tensor, known: Tensor, seed: int) -> float:
    """Of codes [N, dimensions] and numbers of classes [N]: the share of the second half that a classifier with one
    hidden layer, trained on the first half, gets right. A function of its arguments alone."""
    half = len(codes) // 2
    codes = (codes - codes[:half].mean(0)) / codes[:half].std(0).clamp(min=1e-6)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        probe = nn.Sequential(nn.Linear(codes.shape[1], UNITS), nn.ReLU(), nn.Linear(UNITS, int(known.max()) + 1))
        optimizer = torch.optim.Adam(probe.parameters(), LR, weight_decay=1e-4)
        for _ in range(EPOCHS):
            for part in torch.randperm(half).split(BATCH):
                loss = F.cross_entropy(probe(codes[part]), known[part])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
    with torch.no_grad():
        return (probe(codes[half:]).argmax(1) == known[half:]).double().mean().item()
