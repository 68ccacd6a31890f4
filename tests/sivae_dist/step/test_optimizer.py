"""The optimizer takes the steps of torch's, bit for bit, without importing torch's compiler."""

import inspect
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from sivae_dist.step.optimizer import EagerAdam, OptimizerSettings, guarded_step

BODIES = ("step", "zero_grad", "add_param_group")


def trained(optimizer_class: type[Adam], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights and state after steps of two groups, of which one parameter has no gradient at first."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((5, 3, 3, 3), (7,), ())]
    optimizer = optimizer_class(weights[:2], lr=0.0, betas=(0.0, 0.99), eps=1e-8, fused=True)
    optimizer.add_param_group({"params": weights[2:], "eps": 1e-3})
    for number in range(4):
        for weight in weights[number == 0 :]:
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=dtype)
        if number == 2:
            weights[1].grad = torch.full_like(weights[1], torch.nan)
        _, fine = guarded_step(optimizer, weights, 0.1 / (1 + number), 1.0)
        assert bool(fine) is (number != 2)
        optimizer.zero_grad(set_to_none=True)
        assert all(weight.grad is None for weight in weights)
    states = [optimizer.state[weight] | {"weight": weight.detach()} for weight in weights]
    return {f"{place}.{name}": tensor for place, state in enumerate(states) for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_and_state_are_those_of_torch(dtype: torch.dtype) -> None:
    found, expected = trained(EagerAdam, dtype), trained(Adam, dtype)
    assert found.keys() == expected.keys() and len(found) == 3 * 4
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert [int(found[f"{place}.step"]) for place in range(3)] == [2, 3, 3]


def test_its_methods_are_the_bodies_of_torch_and_none_is_missing() -> None:
    """A release of torch that shields another method that a step needs would bring the compiler back."""
    for name in BODIES:
        assert inspect.unwrap(getattr(EagerAdam, name)) is inspect.unwrap(getattr(Adam, name))
    script = """
import sys, torch
from sivae_dist.step.optimizer import OptimizerSettings, guarded_step
weight = torch.nn.Parameter(torch.ones(3))
optimizer = OptimizerSettings().build([weight])
weight.grad = torch.ones(3)
guarded_step(optimizer, [weight], 0.1, 1.0)
optimizer.zero_grad(set_to_none=True)
assert not torch.equal(weight, torch.ones(3))
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_a_step_runs_hooks_and_needs_no_gradients_of_its_own() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer, seen = OptimizerSettings().build([weight]), list[bool]()
    optimizer.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    weight.grad = torch.ones(3)
    optimizer.step()
    assert seen == [True] and torch.is_grad_enabled() and weight.grad_fn is None
