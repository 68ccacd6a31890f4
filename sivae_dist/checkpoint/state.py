"""A run's tensors by canonical name, the same for every engine and world size.

encoder.NAME                                parameters
encoder_ema.NAME                            their moving average
encoder_optim.{step,exp_avg,exp_avg_sq}.NAME    Adam's state, of parameters that have been trained
decoder...                                  likewise
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq")


def network_tensors(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, detached, sharing memory with the network."""
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in network.state_dict().items()}


def optimizer_tensors(prefix: str, network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Adam's state by parameter name, sharing memory with the optimizer. Parameters never stepped have none."""
    return {
        f"{prefix}.{entry}.{name}": optimizer.state[parameter][entry]
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
        for entry in OPTIMIZER_STATE
    }


def restore_network(prefix: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies saved values into a network in place. ValueError naming what is missing or has another shape."""
    for name, target in network.state_dict().items():
        _copy(f"{prefix}.{name}", tensors, target)


def fill_network(
    prefix: str, network: nn.Module, tensors: Mapping[str, Tensor], device: torch.device | None = None
) -> None:
    """Gives a network (ModelSettings.blank) copies of saved values and moves it to `device`, the CPU by default.

    ValueError naming what is missing or has another shape or type.
    """
    device = device or torch.device("cpu")
    targets = network.state_dict()
    values = {name: checked(f"{prefix}.{name}", tensors, t.shape, t.dtype) for name, t in targets.items()}
    if blank := any(target.is_meta for target in targets.values()):
        values = {name: value.to(device, copy=True) for name, value in values.items()}
    network.load_state_dict(values, assign=blank)
    network.to(device)


def restore_optimizer(prefix: str, network: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Gives every parameter the saved state; one that has none saved starts anew, as it was.

    ValueError naming what is missing or has another shape or type.
    """
    optimizer.state.clear()
    for name, parameter in network.named_parameters():
        keys = {entry: f"{prefix}.{entry}.{name}" for entry in OPTIMIZER_STATE}
        if not any(key in tensors for key in keys.values()):
            continue
        moment = parameter.detach()
        # Moments lie in memory as their parameter does, which the fused step relies on.
        targets = {entry: torch.empty_like(moment, memory_format=torch.preserve_format) for entry in OPTIMIZER_STATE}
        targets["step"] = torch.empty((), device=moment.device)
        for entry, key in keys.items():
            _copy(key, tensors, targets[entry])
        optimizer.state[parameter] = targets


def checked(name: str, tensors: Mapping[str, Tensor], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """The saved tensor. ValueError when it is missing or has another shape or type."""
    saved = tensors.get(name)
    if saved is None:
        raise ValueError(f"the checkpoint has no tensor {name}")
    if saved.shape != torch.Size(shape):
        raise ValueError(f"{name} is {list(saved.shape)} there and {list(shape)} here")
    if saved.dtype != dtype:
        raise ValueError(f"{name} is {saved.dtype} there and {dtype} here")
    return saved


def _copy(name: str, tensors: Mapping[str, Tensor], target: Tensor) -> None:
    with torch.no_grad():
        target.copy_(checked(name, tensors, target.shape, target.dtype))
