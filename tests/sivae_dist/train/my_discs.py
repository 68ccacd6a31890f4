"""A user's own kind of data set: images of a disc, drawn from their numbers; the label says whether it is large."""

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from data_pipelines.dataset import Batch, Dataset, DatasetSettings, Numbers, Request, Samples, Spec
from data_pipelines.kinds import DATASETS
from data_pipelines.order import Order
from data_pipelines.streams import stream


@DATASETS.add("discs")
class DiscSettings(DatasetSettings):
    name: Literal["discs"] = "discs"
    count: int = 20

    def open(self, seed: int, device: torch.device) -> "Discs":
        return Discs(self, seed, device)


class Discs(Dataset):
    """A quarter as many for testing as for training."""

    def __init__(self, settings: DiscSettings, seed: int, device: torch.device) -> None:
        self.where, self.device = settings.where, device
        self.spec = Spec({side: (3, side, side) for side in (4, 8)}, classes=("small", "large"))
        self.train, self.test = settings.count, settings.count // 4
        self.digest = f"discs of tests, {settings.count}"
        self._order = Order([settings.count], seed, flip=True)

    @property
    def order(self) -> Order:
        return self._order

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        for request in requests:
            numbers, flips = self.order.at(request.position, request.count)
            x, y, _ = self.samples(request.stage, numbers)
            flipped = torch.from_numpy(flips)[:, None, None, None]
            yield Batch(torch.where(flipped, x.flip(3), x), y, request.position)

    def samples(self, stage: int, numbers: Numbers) -> Samples:
        drawn = [_disc(int(number), stage) for number in numbers]
        x, y = torch.stack([image for image, _ in drawn]), torch.tensor([label for _, label in drawn])
        return Samples(x.to(self.device), y.to(self.device))


def _disc(number: int, side: int) -> tuple[Tensor, int]:
    row, column, radius, *colour = stream(0, "disc", number).random(6).tolist()
    axis = (torch.arange(side) + 0.5) / side
    inside = (axis[:, None] - row) ** 2 + (axis[None] - column) ** 2 < (0.2 + 0.4 * radius) ** 2
    return torch.where(inside, torch.tensor(colour)[:, None, None], -1.0), int(radius > 0.5)
