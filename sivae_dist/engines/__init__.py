"""Engines: how an objective is differentiated and a network's step is taken on one or many processes."""

from sivae_dist.engines.ddp import DdpEngine, EngineSettings

__all__ = ["DdpEngine", "EngineSettings"]
