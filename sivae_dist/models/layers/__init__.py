"""Layers that the networks share, each an exact equivalent of what the paper writes, in the form that is fastest.

- scaled.py: linear and convolution with equalised learning rate.
- resampling.py: up- and down-sampling convolutions, and the blur beside them.
- normalization.py: what stands between two convolutions, from noise and bias to instance normalization.
- styled.py: the same with a style and its parameters.
- batch_norm.py: batch normalization over all processes.
- growing.py: networks of blocks, one per resolution.
- forms.py: which form is used; native/ has the compiled one.
"""

from sivae_dist.models.layers.batch_norm import BatchNorm2d
from sivae_dist.models.layers.growing import GrowingNetwork, pass_through, pixel_norm
from sivae_dist.models.layers.normalization import SLOPE, activate, activate_and_normalize
from sivae_dist.models.layers.resampling import Blur, DownsampleConv2d, UpsampleConv2d
from sivae_dist.models.layers.scaled import Conv2d, Linear, compute_type
from sivae_dist.models.layers.styled import StyledLayer

__all__ = [
    "SLOPE",
    "BatchNorm2d",
    "Blur",
    "Conv2d",
    "DownsampleConv2d",
    "GrowingNetwork",
    "Linear",
    "StyledLayer",
    "UpsampleConv2d",
    "activate",
    "activate_and_normalize",
    "compute_type",
    "pass_through",
    "pixel_norm",
]
