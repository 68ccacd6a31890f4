"""Networks that turn images into features: the list of them, and in base.py how to add one."""

import torch

from data_pipelines.choices import Registry
from sivae_dist.evaluation.extractors.base import Extractor, ExtractorChoice, ExtractorKind
from sivae_dist.evaluation.extractors.inception import Inception, InceptionAtRandom

EXTRACTORS: Registry[type[ExtractorKind]] = Registry(
    "extractor", {"inception-v3-compat": Inception, "inception-v3-random": InceptionAtRandom}
)

USUAL_EXTRACTOR = "inception-v3-compat"
"""What is used unless something else is asked for."""


def make_extractor(chosen: ExtractorChoice, device: torch.device) -> Extractor:
    """The extractor that the settings name. WeightsError when its weights cannot be had or are others."""
    return EXTRACTORS[chosen.extractor](chosen).load(device)


__all__ = ["EXTRACTORS", "USUAL_EXTRACTOR", "Extractor", "ExtractorKind", "make_extractor"]
