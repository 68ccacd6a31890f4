"""DeepSpeed's ZeRO: the copies that DDP keeps in every process are divided among the processes.

A DeepSpeed engine trains a fixed set of parameters, so every segment gets a new one, and what the optimizer knows is
carried over. In between, and in checkpoints, it is held by parameter as ever.
"""

import gc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sivae_dist.engines import deepspeed_setup
from sivae_dist.engines.base import Engine, InputT, NetworkT, TurnT, Update
from sivae_dist.engines.settings import EngineSettings, ZeroSettings
from sivae_dist.step.optimizer import EmaSettings, OptimizerSettings, guarded_step, state_is_finite


class ZeroEngine(Engine[NetworkT, InputT, TurnT]):
    """Stage 0: DeepSpeed averages the gradients, and every process holds a copy of everything."""

    def __init__(
        self,
        settings: EngineSettings,
        optimizer: OptimizerSettings,
        ema: EmaSettings,
        name: str,
        network: NetworkT,
        partner: nn.Module,
    ) -> None:
        super().__init__(settings, optimizer, ema, name, network, partner)
        assert isinstance(settings, ZeroSettings)
        self.device = next(network.parameters()).device
        self.configuration = settings.configuration(self.clip)
        self.build = optimizer.build
        self._deepspeed = deepspeed_setup.load(self.device)
        self._engine: Any = None

    def prepare(self, objective: nn.Module, parts_in_use: list[nn.Module]) -> None:
        self._close()
        self.parameters = [p for part in parts_in_use for p in part.parameters()]
        with self.turn():
            self.optimizer = self._make_optimizer()
            self._engine, *_ = self._deepspeed.initialize(
                model=objective, optimizer=self.optimizer, config=self.configuration, dist_init_required=False
            )
            self._adopt()

    def _make_optimizer(self) -> Adam:
        """For the parameters in use, before DeepSpeed takes it over."""
        return self.optimizer

    def _adopt(self) -> None:
        """After DeepSpeed has laid out its own state."""

    def _close(self) -> None:
        """Ends the DeepSpeed engine. Read what it holds before."""
        if self._engine is None:
            return
        self._engine.destroy()
        self._engine.optimizer = None  # destroyed again when it is collected, it would take the next one's links down
        self._engine.module_forward_pre_hook.remove()  # DeepSpeed remembers modules, and through these all the rest
        self._engine.module_forward_post_hook.remove()
        self._engine = None
        gc.collect()  # it is full of cycles, which hold all that it has divided

    def update(self, inputs: Sequence[InputT], lr: float, allowed: Tensor) -> Update[TurnT]:
        with self.turn():
            sound = self._sound()
            turns = self._backward(inputs, sound)
            norm, taken = self._step(lr, allowed)
        self.commit(turns, taken)
        return Update(turns, norm, sound, taken)

    def rehearse(self, inputs: Sequence[InputT]) -> list[TurnT]:
        """With all the communication of a step: DeepSpeed sends gradients, and weights, as it goes."""
        with self.turn():
            return self._backward(inputs, torch.ones((), dtype=torch.bool, device=self.device))

    def missing_moments(self) -> int:
        return 0 if self._holds_moments else super().missing_moments()

    _holds_moments = False
    """Whether DeepSpeed's engine has them before the first step."""

    def _sound(self) -> Tensor:
        return state_is_finite(self.optimizer, self.parameters)

    def _backward(self, inputs: Sequence[InputT], sound: Tensor) -> list[TurnT]:
        """The gradient, and the turns. What is not finite here becomes a gradient that is not finite everywhere."""
        assert self._engine is not None
        turns = []
        for index, arguments in enumerate(inputs):
            self._engine.set_gradient_accumulation_boundary(index == len(inputs) - 1)
            turn: TurnT = self._engine(*arguments)
            loss = turn.loss / torch.where(sound & torch.isfinite(turn.loss), len(inputs), torch.nan)
            self._engine.backward(loss, scale_wrt_gas=False)
            turns.append(turn._replace(loss=turn.loss.detach()))
        return turns

    def _step(self, lr: float, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient's norm, and whether the step was taken."""
        norm, taken = guarded_step(self.optimizer, self.parameters, lr, self.clip, allowed)
        self.optimizer.zero_grad(set_to_none=True)
        return norm, taken
