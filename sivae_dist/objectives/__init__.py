"""What is minimised. Each player's objective is a module whose forward returns its loss (see player.py)."""

from typing import Annotated

from pydantic import BeforeValidator, Discriminator

from sivae_dist.objectives.intro import IntroSettings
from sivae_dist.objectives.player import DecoderObjective, Draws, EncoderObjective, Terms
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.objectives.vae import VaeSettings

_FIELDS = {
    str(kind.model_fields["name"].default): kind.model_fields
    for kind in (SoftIntroSettings, IntroSettings, VaeSettings)
}


def _of_one_kind(values: object) -> object:
    """ValueError in one line when only the name was changed and the rest belongs to the objective before."""
    if isinstance(values, dict) and (own := _FIELDS.get(str(values.get("name")))):
        others = {key for fields in _FIELDS.values() for key in fields} - own.keys()
        if foreign := [str(key) for key in values if key in others]:
            raise ValueError(
                f"{values['name']} has no {' and no '.join(foreign)}; give another objective as a whole, "
                f"'objective={{name: {values['name']}, ...}}' with any of {', '.join(list(own)[1:])}"
            )
    return values


ObjectiveSettings = Annotated[
    SoftIntroSettings | IntroSettings | VaeSettings, Discriminator("name"), BeforeValidator(_of_one_kind)
]

__all__ = [
    "DecoderObjective",
    "Draws",
    "EncoderObjective",
    "IntroSettings",
    "ObjectiveSettings",
    "SoftIntroSettings",
    "Terms",
    "VaeSettings",
]
