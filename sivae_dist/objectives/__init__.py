"""Objectives: the losses. Each player's objective is a module whose forward returns its turn (see base.py)."""

from typing import Annotated

from data_pipelines.choices import Registry, one_of
from sivae_dist.objectives.base import (
    DecoderInput,
    DecoderObjective,
    DecoderTurn,
    Draws,
    EncoderInput,
    EncoderObjective,
    EncoderTurn,
    Objective,
    Terms,
)
from sivae_dist.objectives.distances import DISTANCES, Distance
from sivae_dist.objectives.intro import IntroSettings
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.objectives.vae import ElboSettings, VaeSettings

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective", {"soft_intro": SoftIntroSettings, "intro": IntroSettings, "vae": VaeSettings}
)
ObjectiveSettings = Annotated[Objective, one_of(OBJECTIVES)]

__all__ = [
    "DISTANCES",
    "OBJECTIVES",
    "DecoderInput",
    "DecoderObjective",
    "DecoderTurn",
    "Distance",
    "Draws",
    "ElboSettings",
    "EncoderInput",
    "EncoderObjective",
    "EncoderTurn",
    "IntroSettings",
    "Objective",
    "ObjectiveSettings",
    "SoftIntroSettings",
    "Terms",
    "VaeSettings",
]
