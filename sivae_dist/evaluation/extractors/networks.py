"""The Inception network of torch-fidelity, which itself would unpickle a file of weights; that can run any code."""

import io
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from sivae_dist.published import unusable

_RANDOM_SIDE = 139
"""Pixels; 299 would cost four times as much and mean no more."""


class RandomInception(FeatureExtractorInceptionV3):  # type: ignore[misc]  # torch-fidelity has no types
    """Inception-v3 with He-initialised random weights, the same everywhere. It judges nothing that a trained one does,
    but it needs no file and exercises all else."""

    INPUT_IMAGE_SIZE = _RANDOM_SIDE

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list, feature_extractor_weights_path=_serialized({}))

    def load_state_dict(self, *_: Any, **__: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()


register_feature_extractor("inception-v3-random", RandomInception)


def load(path: Path, name: str, layer: str) -> nn.Module:
    """The network with the weights of a file, read without unpickling objects. WeightsError when they do not fit."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        # It loads nothing but files, unpickling them: what it gets here we have just written.
        network: nn.Module = FeatureExtractorInceptionV3(
            name, [layer], feature_extractor_weights_path=_serialized(state)
        )
        return network
    except Exception as error:  # whatever a file of the wrong kind makes torch raise
        raise unusable(path, error) from None


def _serialized(state: dict[str, Tensor]) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file
