"""The perceptual distance against a rendering of LORD's loss with torchvision's own network, in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.perceptual.vgg import VggDistance
from sivae_dist.perceptual.weights import TORCHVISION, random_weights


def exact(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def rendered(weights: dict[str, Tensor], a: Tensor, b: Tensor, *, caffe: bool) -> Tensor:
    """LORD's loss of each image: of layers 2, 5, 8, 13 and 18, as Keras counts convolutions with their activation and
    poolings from 1, weighted by a fifth each. Images are RGB in [-1, 1]."""
    from torchvision.models import vgg16

    with torch.device("meta"):
        layers = vgg16().features
    layers = layers.to_empty(device="cpu").double()
    layers.load_state_dict(weights)
    total = torch.zeros(len(a), dtype=torch.float64)
    pair = []
    for x in (a, b):
        unit = (x + 1) / 2
        if caffe:
            blue_green_red = 255 * unit.flip(1) - exact([103.939, 116.779, 123.68]).reshape(3, 1, 1)
            x = blue_green_red.flip(1)
        else:
            mean, deviation = exact([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 3, 1, 1)
            x = (unit - mean) / deviation
        pair.append(x)
    number = 0
    for layer in layers:
        pair = [layer(x) for x in pair]
        if not isinstance(layer, nn.Conv2d):
            number += 1
            if number in (2, 5, 8, 13, 18):
                total += 0.2 * (pair[0] - pair[1]).abs().mean((1, 2, 3))
    assert number == 18
    return total


@pytest.fixture(scope="module")
def distance() -> VggDistance:
    return VggDistance(random_weights()).double()


def images(*shape: int) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return a, b


@pytest.mark.parametrize("caffe", [True, False])
def test_layers_and_scale(distance: VggDistance, caffe: bool) -> None:
    if not caffe:
        distance = VggDistance(random_weights()._replace(preprocessing=TORCHVISION)).double()
    a, b = images(2, 3, 40, 64)
    weights = {name: value.double() for name, value in random_weights().state.items()}
    expected = rendered(weights, a, b, caffe=caffe)
    torch.testing.assert_close(distance(a, b), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(distance(b, a), expected, rtol=1e-12, atol=0)
    assert distance(a, a).eq(0).all()


def test_grey_and_small_images(distance: VggDistance) -> None:
    a, b = images(2, 1, 12, 12)
    assert torch.equal(distance(a, b), distance(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))
    large = [nn.functional.interpolate(x.repeat(1, 3, 1, 1), scale_factor=3.0, mode="nearest") for x in (a, b)]
    torch.testing.assert_close(distance(a, b), distance(*large), rtol=1e-12, atol=0)
    assert len(distance._features(images(1, 3, 32, 32)[0])[-1].flatten()) == 512  # one position is left


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_reach_both_arguments(distance: VggDistance, which: int) -> None:
    pair = list(images(1, 3, 32, 32))
    pair[which].requires_grad_(True)
    (gradient,) = torch.autograd.grad(distance(*pair).sum(), pair[which])
    direction = torch.randn(gradient.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    moved = []
    for step in (1e-7, -1e-7):
        there = [x.detach() + step * direction if place == which else x for place, x in enumerate(pair)]
        moved.append(distance(*there).sum().item())
    assert (gradient * direction).sum().item() == pytest.approx((moved[0] - moved[1]) / 2e-7, rel=1e-5)
    assert not any(p.requires_grad or p.grad is not None for p in distance.parameters()) and not distance.training


def test_making_one_draws_nothing_of_torchs_generator() -> None:
    before = torch.get_rng_state()
    first, second = VggDistance(random_weights()), VggDistance(random_weights())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_random_features_keep_their_size(distance: VggDistance) -> None:
    a, _ = images(2, 3, 64, 64)
    sizes = [features.square().mean().sqrt().item() for features in distance._features(a)]
    assert min(sizes) > 50 and max(sizes) < 150
