"""Batch normalization over all processes against torch's over the whole batch, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.models import Cond, ModelSettings, Stage
from sivae_dist.models.layers import pass_through
from sivae_dist.models.layers.batch_norm import (
    BatchNorm2d,
    BatchStatistics,
    Over,
    move_running_statistics,
    normalizing,
)
from sivae_dist.models.residual import ResidualSettings
from sivae_dist.process.processes import rank, sum_over_processes, world_size
from tests.helpers import on_processes

WIDTH = 5


def inputs() -> tuple[Tensor, Tensor]:
    """Maps far from zero, and the gradient of what is made of them."""
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(2, 8, WIDTH, 3, 4, generator=generator, dtype=torch.float64)
    return 3 * x + 7, grad


def with_weights(layer: Any) -> Any:
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 2, WIDTH))
        layer.bias.copy_(torch.linspace(3, -1, WIDTH))
    return layer.double()


def by_torch() -> dict[str, Tensor]:
    layer, (x, grad) = with_weights(nn.BatchNorm2d(WIDTH)), inputs()
    y = layer(x.requires_grad_())
    y.backward(grad)
    return {"y": y.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad} | {
        name: getattr(layer, name) for name in ("running_mean", "running_var")
    }


def by_us() -> dict[str, Tensor]:
    """On this process's part of the batch."""
    layer, (x, grad) = with_weights(BatchNorm2d(WIDTH)), inputs()
    x, grad = (t.chunk(world_size())[rank()] for t in (x, grad))
    over = Over(sum_over_processes, world_size()) if world_size() > 1 else None
    statistics = BatchStatistics(over)
    with normalizing(statistics):
        y = layer(x.requires_grad_())
    assert not layer.running_mean.any() and (layer.running_var == 1).all()  # no pass moves them
    y.backward(grad)
    found, nothing = statistics.that_count(layer, nn.Identity()), nn.Identity()
    move_running_statistics(layer, nothing, found, torch.tensor(False))
    assert not layer.running_mean.any() and (layer.running_var == 1).all()
    move_running_statistics(layer, nothing, found, torch.tensor(True))
    return {"y": y.detach(), "x": x.grad, "weight": layer.weight.grad, "bias": layer.bias.grad} | {
        name: getattr(layer, name) for name in ("running_mean", "running_var")
    }


@pytest.mark.parametrize("count", [1, 2, 4])
def test_parts_of_a_batch_are_normalised_as_the_whole(count: int) -> None:
    want, parts = by_torch(), on_processes(count, by_us)
    for name in ("y", "x"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), want[name], rtol=1e-12, atol=1e-12)
    for name in ("weight", "bias"):  # summed over processes by an engine
        torch.testing.assert_close(sum(part[name] for part in parts), want[name], rtol=1e-12, atol=1e-12)
    for name in ("running_mean", "running_var"):
        for part in parts:
            torch.testing.assert_close(part[name], want[name], rtol=1e-12, atol=1e-12)


def test_in_bf16_statistics_are_exact() -> None:
    layer, (x, _) = with_weights(BatchNorm2d(WIDTH)).float(), inputs()
    statistics = BatchStatistics()
    with normalizing(statistics):
        y = layer(x.bfloat16())
    mean, variance = statistics.that_count(layer, nn.Identity())["player"][0]
    assert y.dtype == torch.bfloat16 and mean.dtype == torch.float32
    rounded = x.bfloat16().double()
    torch.testing.assert_close(mean.double(), rounded.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), rounded.var((0, 2, 3)), rtol=1e-5, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_layer_communicates_thrice(recompute: bool) -> None:
    """Two sums forward and one backward, whether or not its block is passed through again there; once collected."""
    sums: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        sums.append(tuple(tensor.shape))
        return tensor

    layer, (x, grad) = with_weights(BatchNorm2d(WIDTH)), inputs()
    statistics = BatchStatistics(Over(note, 1))
    with normalizing(statistics):
        y = pass_through(layer, x.requires_grad_(), recompute=recompute)
    y.backward(grad)
    assert sums == [(WIDTH,), (WIDTH,), (2, WIDTH)]
    assert len(statistics.passes[layer]) == 1
    torch.testing.assert_close(x.grad, by_torch()["x"], rtol=1e-12, atol=1e-12)


def test_outside_of_training_running_statistics_normalise() -> None:
    layer, (x, _) = with_weights(BatchNorm2d(WIDTH)), inputs()
    layer.running_mean.fill_(2.0)
    layer.running_var.fill_(9.0)
    want = (x - 2) / (9 + 1e-5) ** 0.5 * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), want)
    torch.testing.assert_close(layer(x[:1]), want[:1])


class Foreign(ResidualSettings):
    """Has torch's own layer, whose statistics move in every pass."""

    kept: bool = False

    def networks(self) -> Any:
        encoder, decoder = super().networks()
        encoder.tracks_statistics = self.kept
        return encoder, decoder


def test_networks_say_that_they_track_statistics() -> None:
    settings: ModelSettings = Foreign(resolution=8, widths=[4])
    with pytest.raises(ValueError, match=r"^ResidualEncoder has buffers \(blocks.8.norm.running_mean, "):
        settings.build(0)
    encoder, decoder = Foreign(resolution=8, widths=[4], kept=True).build(0)
    assert encoder.tracks_statistics and not encoder.concatenates and not decoder.concatenates
    x = decoder(torch.zeros(2, 128), Cond(Stage(8)))
    assert x.shape == (2, 3, 8, 8)
