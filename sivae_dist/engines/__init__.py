"""Engines: how an objective is differentiated and a network's step is taken on one or many processes."""

from torch import nn

from sivae_dist.engines.base import Engine, InputT, NetworkT, TurnT
from sivae_dist.engines.ddp import DdpEngine
from sivae_dist.engines.settings import EngineSettings, ZeroSettings
from sivae_dist.step.optimizer import EmaSettings, OptimizerSettings

__all__ = ["Engine", "make_engine"]


def make_engine(
    settings: EngineSettings,
    optimizer: OptimizerSettings,
    ema: EmaSettings,
    name: str,
    network: NetworkT,
    partner: nn.Module,
) -> Engine[NetworkT, InputT, TurnT]:
    """The engine of one player that the settings name; all processes make it together."""
    if not isinstance(settings, ZeroSettings):
        return DdpEngine(settings, optimizer, ema, name, network, partner)
    from sivae_dist.engines.zero_divided import ENGINES  # DeepSpeed takes seconds

    return ENGINES[settings.stage](settings, optimizer, ema, name, network, partner)
