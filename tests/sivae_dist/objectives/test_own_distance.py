"""A distance of a user's own with frozen weights and buffers: traced for its memory, trained with, never saved."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.objectives import DISTANCES, Distance
from sivae_dist.train.memory import logged_terms
from tests.helpers import begin, on_processes, random_set, tiny_settings, train

pytestmark = pytest.mark.slow

MADE: list["Features"] = []


class Features(Distance):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.full((1, 4, 1, 1), 0.5))
        self.register_buffer("count", torch.ones((), dtype=torch.int64))
        weight = torch.rand(self.layer.weight.shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.layer.weight.copy_(weight)
        MADE.append(self)

    def forward(self, target: Tensor, output: Tensor) -> Tensor:
        assert isinstance(self.mean, Tensor)
        mean = self.mean
        difference = (self.layer(target) - mean).square() - (self.layer(output) - mean).square()
        return difference.square().flatten(1).sum(1)


@pytest.mark.parametrize(
    ("engine", "dtype"),
    [
        (["engine.precision=fp32"], torch.float32),
        (["engine.precision=fp64"], torch.float64),
        (["engine.name=zero", "engine.stage=3"], torch.float32),
    ],
    ids=["fp32", "fp64", "zero 3"],
)
def test_weights_of_a_distance_stay_outside(tmp_path: Path, engine: list[str], dtype: torch.dtype) -> None:
    on_processes(1, trained_with_it, tmp_path, engine, dtype)  # DeepSpeed leaves a group behind


def trained_with_it(tmp_path: Path, engine: list[str], dtype: torch.dtype) -> None:
    DISTANCES.add("features")(Features)
    data = random_set(tmp_path / "set")
    settings = tiny_settings(data, "objective.reconstruction=features", *engine)
    assert "reconstruction/per_value" in logged_terms(settings)
    plain = begin(tmp_path / "plain", tiny_settings(data, *engine))
    trainer = begin(tmp_path / "run", settings)
    train(trainer)
    assert trainer.images == 48
    assert trainer.players.tensors().keys() >= plain.players.tensors().keys()
    assert not any("layer.weight" in name or "mean" in name for name in trainer.players.tensors())
    used = MADE[-1]
    assert {p.dtype for p in used.parameters()} == {used.mean.dtype} == {dtype} and used.count.dtype == torch.int64
    assert not any(p.requires_grad or p.grad is not None for p in used.parameters()) and not used.training
    first = torch.rand(4, 3, 1, 1, generator=torch.Generator().manual_seed(1))
    assert torch.equal(used.layer.weight, first.to(dtype))
