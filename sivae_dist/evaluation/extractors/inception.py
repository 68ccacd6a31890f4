"""Inception-v3 through torch-fidelity, with the weights of 2015, with others from a file, or with random ones.

Only the weights of 2015 give a value that may be called FID (and KID); whatever else is used is named in the value's
name.
"""

from pathlib import Path

import torch

from sivae_dist.evaluation.extractors.base import Extractor, ExtractorKind

_LAST_LAYER = "2048"


class Inception(ExtractorKind):
    """torch-fidelity's port of the Inception network of 2015, from a file of weights that is checked before it is
    read."""

    @property
    def genuine(self) -> bool:
        return self.chosen.layer == _LAST_LAYER and self.chosen.sha256 is None

    def weights(self) -> Path:
        from sivae_dist.evaluation.extractors.weights import INCEPTION  # takes seconds

        return INCEPTION.find(self.chosen.weights)

    def at_hand(self) -> bool:
        from sivae_dist.evaluation.extractors.weights import INCEPTION  # takes seconds

        return INCEPTION.expected_at(self.chosen.weights).is_file()

    def load(self, device: torch.device) -> Extractor:
        from sivae_dist.evaluation.extractors.networks import load  # takes seconds
        from sivae_dist.evaluation.extractors.weights import INCEPTION, is_of_2015

        chosen, path = self.chosen, self.weights()
        sha256 = INCEPTION.check(path, chosen.sha256)
        network = load(path, chosen.extractor, chosen.layer)
        of_2015 = is_of_2015(sha256)
        name = _label(chosen.extractor if of_2015 else f"{chosen.extractor}-{sha256[:8]}", chosen.layer)
        genuine = of_2015 and chosen.layer == _LAST_LAYER
        return Extractor(name, sha256, chosen.layer, genuine, network.to(device).eval().requires_grad_(False))


class InceptionAtRandom(ExtractorKind):
    """The same network with random weights of a fixed seed at 139 px, which needs no file."""

    def load(self, device: torch.device) -> Extractor:
        from sivae_dist.evaluation.extractors.networks import RandomInception  # takes seconds
        from sivae_dist.published import checksum

        chosen = self.chosen
        network = RandomInception(chosen.extractor, [chosen.layer])
        sha256 = checksum(network.state_dict())
        name = _label(chosen.extractor, chosen.layer)
        return Extractor(name, sha256, chosen.layer, False, network.to(device).eval().requires_grad_(False))


def _label(name: str, layer: str) -> str:
    return name if layer == _LAST_LAYER else f"{name}:{layer}"
