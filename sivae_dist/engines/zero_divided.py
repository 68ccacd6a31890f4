"""ZeRO's stages 1 to 3: the parts of optimizer, weights and averages that a process holds, and how they are joined."""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sivae_dist.checkpoint.state import OPTIMIZER_STATE, checked
from sivae_dist.engines.base import InputT, NetworkT, TurnT
from sivae_dist.engines.slices import put_together, slice_of
from sivae_dist.engines.zero import ZeroEngine
from sivae_dist.step.optimizer import state_is_finite

MOMENTS = ("exp_avg", "exp_avg_sq")

State = dict[str, Tensor]
"""Adam's of one parameter: `step`, 0-dimensional, and this process's slices of the moments."""


class DividedOptimizerEngine(ZeroEngine[NetworkT, InputT, TurnT]):
    """Stages 1 and 2: the optimizer's state is divided; in stage 2 gradients are too.

    DeepSpeed keeps the state of a group of parameters in one flat tensor with one count of steps, so there is a group
    for each count. What it does not hold, of parameters out of use, is held here, cut into slices.
    """

    _holds_moments = True
    _flat_tensors = "single_partition_of_fp32_groups"
    """DeepSpeed's attribute with this process's part of each group, which is what its optimizer steps."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._shapes = {name: p.shape for name, p in self.network.named_parameters()}
        self._idle: dict[str, State] = {}
        self._groups: list[dict[str, nn.Parameter]] = []

    # From one DeepSpeed engine to the next.

    def _make_optimizer(self) -> Adam:
        in_use = set(map(id, self.parameters))
        by_step: dict[float, dict[str, nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if id(parameter) in in_use:
                step = self._idle[name]["step"].item() if name in self._idle else 0.0
                by_step.setdefault(step, {})[name] = parameter
        self._groups = [by_step[step] for step in sorted(by_step)]
        return self.build([{"params": list(group.values())} for group in self._groups])

    @property
    def _flat(self) -> list[Tensor]:
        flat: list[Tensor] = getattr(self._engine.optimizer, self._flat_tensors)
        return flat

    def _adopt(self) -> None:
        for flat in self._flat:  # as Adam's own first step would
            zeros = {moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS}
            self.optimizer.state[flat] = {"step": torch.zeros((), device=flat.device)} | zeros
        self._link()
        assert len(self._flat) == len(self._groups)
        for flat, group in zip(self._flat, self._groups, strict=True):
            for name, parameter in group.items():
                if (state := self._idle.pop(name, None)) is not None:
                    self.optimizer.state[flat]["step"].copy_(state["step"])
                    for moment in MOMENTS:
                        self._put(parameter, moment, state[moment])

    def _close(self) -> None:
        if self._engine is not None:
            with self.turn():
                for flat, group in zip(self._flat, self._groups, strict=True):
                    step = self.optimizer.state[flat]["step"].clone()
                    for name, parameter in group.items():
                        moments = {moment: self._get(parameter, moment) for moment in MOMENTS}
                        if step:
                            self._idle[name] = {"step": step} | moments
        self._discard()

    def _discard(self) -> None:
        """Ends the DeepSpeed engine, and with it what it holds of the optimizer."""
        if self._engine is not None:
            super()._close()
            self._groups = []
            self.optimizer = self.build(self.network.parameters())
            self._detach()

    def _link(self) -> None:
        self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _detach(self) -> None:
        """Weights out of flat buffers, which would live on for the sake of those that are not used any more."""
        for parameter in self.network.parameters():
            parameter.data = parameter.data.clone()

    def _get(self, parameter: nn.Parameter, moment: str) -> Tensor:
        """This process's slice of what DeepSpeed holds."""
        return slice_of(self._get_whole(parameter, moment)).to(self._state_device)

    def _get_whole(self, parameter: nn.Parameter, moment: str) -> Tensor:
        value: Tensor = self._deepspeed.utils.safe_get_full_optimizer_state(parameter, moment)
        return value

    def _put(self, parameter: nn.Parameter, moment: str, part: Tensor) -> None:
        whole = put_together(part, parameter.shape)
        self._deepspeed.utils.safe_set_full_optimizer_state(parameter, whole, moment)

    @property
    def _state_device(self) -> torch.device:
        return torch.device("cpu") if self.configuration["zero_optimization"].get("offload_optimizer") else self.device

    # Steps.

    def _sound(self) -> Tensor:
        return state_is_finite(self.optimizer, self._flat).to(self.device)  # type: ignore[arg-type]

    def _step(self, lr: float, allowed: Tensor) -> tuple[Tensor, Tensor]:
        # DeepSpeed itself leaves a step out when the norm is not finite.
        # Copied to where the optimizer is by us, who wait for it; torch would not.
        self.optimizer.found_inf = (~allowed).to(self._flat[0].device, torch.float32)  # type: ignore[attr-defined]
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32, device=self.device)
        return norm, torch.isfinite(norm) & allowed

    # Whatever is asked for from outside.

    def reset(self) -> None:
        self._discard()
        self._idle = {}

    def specs(self) -> dict[str, Tensor]:
        return self._weights(None) | self._optimizer_tensors(None)

    def tensors(self, mine: Container[str]) -> dict[str, Tensor]:
        with self.turn():
            return self._weights(mine) | self._optimizer_tensors(mine)

    def _weights(self, mine: Container[str] | None) -> dict[str, Tensor]:
        """Of network and average; what it takes communication to know as meta tensors, without `mine`."""
        return self.weights()

    def _optimizer_tensors(self, mine: Container[str] | None) -> dict[str, Tensor]:
        flats = {name: flat for flat, group in self._live() for name in group}
        steps = {name: self.optimizer.state[flat]["step"] for name, flat in flats.items()}
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.network.named_parameters():
            step = steps[name] if name in steps else self._idle.get(name, {}).get("step")
            if step is None or not step:
                continue  # it has never been trained
            for entry in OPTIMIZER_STATE:
                key = f"{self.name}_optim.{entry}.{name}"
                if entry == "step":
                    tensors[key] = step.clone()
                    continue
                tensors[key] = torch.empty(self._shapes[name], dtype=torch.float32, device="meta")
                if mine is not None:
                    whole = (
                        self._get_whole(parameter, entry)
                        if name in flats
                        else put_together(self._idle[name][entry], self._shapes[name])
                    )
                    if key in mine:
                        tensors[key] = whole
        return tensors

    def _live(self) -> Iterator[tuple[Tensor, dict[str, nn.Parameter]]]:
        if self._engine is not None:
            yield from zip(self._flat, self._groups, strict=True)

    def restore_networks(self, tensors: Mapping[str, Tensor]) -> None:
        self._discard()
        super().restore_networks(tensors)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.restore_networks(tensors)
        self._idle = {}
        for name, shape in self._shapes.items():
            keys = {entry: f"{self.name}_optim.{entry}.{name}" for entry in OPTIMIZER_STATE}
            if not any(key in tensors for key in keys.values()):
                continue
            step = checked(keys["step"], tensors, (), torch.float32)
            moments = {m: slice_of(checked(keys[m], tensors, shape, torch.float32)) for m in MOMENTS}
            self._idle[name] = {"step": step.clone()} | {m: part.to(self._state_device) for m, part in moments.items()}


class DividedEngine(DividedOptimizerEngine[NetworkT, InputT, TurnT]):
    """Stage 3: weights and averages are divided as well.

    Hooks that DeepSpeed hangs on the network's modules put the weights of a layer together before it is passed through.
    Both objectives pass through layers several times, so that most stay whole until the step, after which there are
    slices again. The average's parameters hold slices always. Buffers, which are small, are whole in every process.
    """

    _flat_tensors = "fp32_partitioned_groups_flat"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._names = list(self.network.state_dict())
        self._template = deepcopy(self.network).to("meta")
        self._deepspeed.zero.Init(
            module=self.network, dtype=self.settings.dtype, config_dict_or_path=self.configuration
        )
        for parameter in self.ema.module.parameters():
            parameter.data = slice_of(parameter)

    @staticmethod
    def _slice(parameter: nn.Parameter) -> Tensor:
        part: Tensor = parameter.ds_tensor  # type: ignore[attr-defined]
        return part

    def _discard(self) -> None:
        if self._engine is not None:
            self._engine.empty_partition_cache()
            for module in self._engine.module.modules():  # the next engine would continue with what this one left there
                for name in ("pre_bwd_fn", "post_bwd_fn", "applied_pre_backward_ref_cnt", "ds_grads_remaining"):
                    module.__dict__.pop(name, None)
        super()._discard()

    def _link(self) -> None:
        """Does nothing: nothing is linked in this stage."""

    def _detach(self) -> None:
        for parameter in self.network.parameters():
            self._slice(parameter).data = self._slice(parameter).data.clone()
            del parameter._z3_optimizer  # type: ignore[attr-defined]

    def _get(self, parameter: nn.Parameter, moment: str) -> Tensor:
        part: Tensor = self._deepspeed.utils.safe_get_local_optimizer_state(parameter, moment)
        return part.clone().to(self._state_device)

    def _get_whole(self, parameter: nn.Parameter, moment: str) -> Tensor:
        part: Tensor = self._deepspeed.utils.safe_get_local_optimizer_state(parameter, moment)
        return put_together(part, parameter.ds_shape)  # type: ignore[attr-defined]

    def _put(self, parameter: nn.Parameter, moment: str, part: Tensor) -> None:
        self._deepspeed.utils.safe_set_local_optimizer_state(parameter, part, moment)

    def average(self, images: int) -> None:
        averages = [p.detach() for p in self.ema.module.parameters()]
        weights = [self._slice(p) for p in self.network.parameters()]
        torch._foreach_lerp_(averages, weights, self.ema.share(images))
        self.ema.update_buffers(self.network, images)

    def _slices(self) -> Iterator[tuple[str, Tensor]]:
        """By canonical name: of the network and of its average."""
        for name, parameter in self.network.named_parameters():
            yield f"{self.name}.{name}", self._slice(parameter)
        for name, parameter in self.ema.module.named_parameters():
            yield f"{self.name}_ema.{name}", parameter.detach()

    def _buffers(self) -> dict[str, Tensor]:
        """Those that are saved, by canonical name: of the network and of its average."""
        owners: dict[str, nn.Module] = {self.name: self.network, f"{self.name}_ema": self.ema.module}
        return {
            f"{owner}.{name}": buffer
            for owner, network in owners.items()
            for name, buffer in network.named_buffers()
            if name in self._names
        }

    def _shape_of(self, canonical: str) -> torch.Size:
        return self._shapes[canonical.partition(".")[2]]

    def _weights(self, mine: Container[str] | None) -> dict[str, Tensor]:
        tensors = self._buffers()
        for name, part in self._slices():
            tensors[name] = torch.empty(self._shape_of(name), dtype=part.dtype, device="meta")
            if mine is not None:
                whole = put_together(part, self._shape_of(name))
                if name in mine:
                    tensors[name] = whole
        return {name: tensors[name] for owner in (self.name, f"{self.name}_ema") for name in self._canonical(owner)}

    def _canonical(self, owner: str) -> list[str]:
        return [f"{owner}.{name}" for name in self._names]

    def restore_networks(self, tensors: Mapping[str, Tensor]) -> None:
        self._discard()
        for name, part in self._slices():
            part.copy_(slice_of(checked(name, tensors, self._shape_of(name), part.dtype)))
        for name, buffer in self._buffers().items():
            buffer.copy_(checked(name, tensors, buffer.shape, buffer.dtype))

    @contextmanager
    def whole(self, *, live: bool, here: bool = True) -> Iterator[NetworkT]:
        if here:
            network = deepcopy(self._template).to_empty(device=self.device)
            targets = dict(network.named_parameters()) | dict(network.named_buffers())
            for name, buffer in (self.network if live else self.ema.module).named_buffers():
                targets[name].copy_(buffer)
        for name, part in self._slices():
            owner, _, inner = name.partition(".")
            if (owner == self.name) == live:
                value = put_together(part, self._shapes[inner])
                if here:
                    targets[inner].data.copy_(value)
        yield network if here else self._template


ENGINES: dict[int, type[ZeroEngine[Any, Any, Any]]] = {
    0: ZeroEngine,
    1: DividedOptimizerEngine,
    2: DividedOptimizerEngine,
    3: DividedEngine,
}
"""The engines by stage."""
