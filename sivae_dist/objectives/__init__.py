"""What is minimised. Each player's objective is a module whose forward returns its loss (see player.py)."""

from typing import Annotated

from pydantic import Field

from sivae_dist.objectives.player import DecoderObjective, Draws, EncoderObjective, Terms
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.objectives.vae import VaeSettings

ObjectiveSettings = Annotated[SoftIntroSettings | VaeSettings, Field(discriminator="name")]

__all__ = [
    "DecoderObjective",
    "Draws",
    "EncoderObjective",
    "ObjectiveSettings",
    "SoftIntroSettings",
    "Terms",
    "VaeSettings",
]
