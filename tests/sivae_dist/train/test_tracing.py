"""What the tracker counts, against what is counted by hand."""

import copy
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from sivae_dist.train.tracing import FakeMode, Tracker

A, B = torch.randn(4, 8), torch.randn(8)


@torch.library.custom_op("sivae_tests::scale_into", mutates_args=("out",))
def scale_into(x: Tensor, factor: float, out: Tensor) -> Tensor:
    out.copy_(factor * x)
    return x.sum(dim=1)


@scale_into.register_fake
def _(x: Tensor, factor: float, out: Tensor) -> Tensor:
    return x.new_empty(x.shape[0])


OPERATIONS: list[tuple[Callable[[Tensor, Tensor], object], int, int]] = [
    (lambda a, b: a + b, 1, 32 + 8 + 32),
    (lambda a, b: a.add_(b), 1, 32 + 8 + 32),
    (lambda a, b: a.t().reshape(2, 16).to(torch.bfloat16), 2, 32 + 32 + 32 + 16),  # what is transposed is copied first
    (lambda a, b: a.t()[1:].expand(3, 7, 4).detach(), 0, 0),
    (lambda a, b: a.unflatten(0, (2, 2)).contiguous(), 0, 0),
    (lambda a, b: torch.empty_like(a), 0, 0),
    (lambda a, b: torch.zeros_like(b).mul_(2.0), 2, (8 + 8) + (8 + 8)),
    (lambda a, b: torch.var_mean(a, dim=1), 1, 32 + 4 + 4),
    (lambda a, b: torch._foreach_lerp_([a, b], [torch.ones(4, 8), torch.ones(8)], 0.5), 3, 32 + 8 + 3 * 40),
    (lambda a, b: scale_into(a, 2.0, a), 1, 32 + 32 + 4 + 32),
    (lambda a, b: a @ b, 1, 32 + 8 + 4),
]


@pytest.mark.parametrize("place", range(len(OPERATIONS)))
@pytest.mark.parametrize("fake", [False, True])
def test_operations_and_their_bytes(place: int, fake: bool) -> None:
    operation, count, floats = OPERATIONS[place]
    with FakeMode() if fake else nullcontext() as mode:
        a, b = (tensor.clone() if mode is None else mode.from_tensor(tensor) for tensor in (A, B))
        with Tracker() as tracker:
            operation(a, b)
    assert (tracker.operations, tracker.traffic) == (count, 4 * floats)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_copy_made_of_a_network_without_values_belongs_to_the_same_mode() -> None:
    with FakeMode():
        network = torch.nn.Linear(2, 3)
        copied = copy.deepcopy(network)
        assert (network.weight + copied.weight).shape == (3, 2)
        assert copied.weight is not network.weight
