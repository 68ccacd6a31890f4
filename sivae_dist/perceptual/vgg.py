"""The perceptual distance itself: the mean absolute difference of features of VGG16 (Simonyan and Zisserman 2015).

It is the loss of LORD (Gabbay and Hoshen 2020): the mean of five layers, for each of which that over its positions and
channels. Features of real images are as large as their pixels in 0..255 where the weights are the authors' own.
"""

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from sivae_dist.perceptual.images import repeats
from sivae_dist.perceptual.weights import CAFFE, VggWeights

LAYERS = (3, 8, 13, 22, 30)
"""relu1_2, relu2_2, relu3_2, relu4_3 and pool5, as torchvision counts: layers 2, 5, 8, 13 and 18 of Keras's VGG16."""


class VggDistance(nn.Module):
    """[B, C, H, W] and the same, in [-1, 1] with C of 1 or 3 -> [B]; summed in the type of the images.

    Features are computed in the type of the weights. Grey images count as three equal colours.
    """

    def __init__(self, weights: VggWeights | None) -> None:
        """Without weights: of the right shape, and with unknown values."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers draw weights of their own
            self.layers = make_layers(cfgs["D"], batch_norm=False)
        self.preprocessing = CAFFE if weights is None else weights.preprocessing
        if weights is not None:
            self.layers.load_state_dict(dict(weights.state))
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = zip(self._features(a), self._features(b), strict=True)
        means = [(one.to(a.dtype) - other.to(a.dtype)).abs().flatten(1).mean(1) for one, other in pairs]
        return torch.stack(means).mean(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        features, x = [], self._prepared(x).to(next(self.layers.parameters()).dtype)
        for place, layer in enumerate(self.layers):
            x = layer(x)
            if place in LAYERS:
                features.append(x)
        return features

    def _prepared(self, x: Tensor) -> Tensor:
        """Pixels as the network wants them, enough of them."""
        times = repeats(x.shape[-2], x.shape[-1])
        if times > 1:
            x = x.repeat_interleave(times, 2).repeat_interleave(times, 3)
        channels = (x * 127.5 + 127.5).expand(-1, 3, -1, -1).unbind(1)
        scaled = [(c - m) / d for c, m, d in zip(channels, *self.preprocessing, strict=True)]
        return torch.stack(scaled, 1)
