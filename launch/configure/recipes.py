"""Two measured training recipes, and their adaptation to a data set and the available time.

`narrow` is the recipe of demo, fashion_mnist32 and fluent_emoji64 (docs/results.md): small networks with visible
results after minutes on a CPU. `paper` is appendix 9.2.2, as in ffhq256 and celebahq256.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sivae_dist.config.names import config_path
from sivae_dist.config.yaml_reading import read_yaml

Name = Literal["narrow", "paper"]

_LIKE: dict[Name, str] = {"narrow": "demo", "paper": "ffhq256"}
"""The configuration that each recipe follows, and whose objective it uses."""

FEW = 2_000
"""Number of training images below which wide networks would memorise them."""

_NARROW_IMAGES = {4: 4_000, 8: 12_000, 16: 26_000, 32: 28_000, 64: 28_000, 128: 28_000}
"""Images of each phase but the last (fluent_emoji64)."""
_NARROW_LAST = 48_000
"""Images of the last phase (demo: 46,000), whose last third is introspective."""
_NARROW_KL = {4: 0.4, 8: 3.8, 16: 10.6, 32: 25.0, 64: 48.0, 128: 95.0}
"""KL(real) in nats, as measured with the narrow recipe (docs/results.md); 128 px by doubling."""

_PAPER_BATCH = {4: 512, 8: 256, 16: 128, 32: 64}
"""The authors' table for 8 GPUs; 32 from 64 px on."""
_PAPER_PHASE = (300_000, 1_800_000)
"""Bounds for the images of a phase, which is 30 passes over the data as in the paper (FFHQ: 1.8 million)."""
_PAPER_KL = math.log(512 / 0.4) / (2 * 512 / (3 * 256**2))
"""KL(fake) in nats at which the paper's values for FFHQ at 256 px settle: 1,374."""

_ABOVE = 1.2
"""Target ratio of KL(fake) to KL(real)."""


@dataclass(frozen=True)
class Recipe:
    """A way to train at a final resolution, adapted to a data set and a number of processes."""

    name: Name
    resolution: int
    channels: int
    train: int
    """Training images."""
    processes: int

    @property
    def resolutions(self) -> list[int]:
        return [2**k for k in range(2, self.resolution.bit_length())]

    @property
    def model(self) -> dict[str, Any]:
        if self.name == "paper":
            # At every resolution as wide as the networks for 256 px.
            return {
                "resolution": self.resolution, "channels": self.channels, "latent": 512,
                "base_width": max(8, min(512, 64 * 256 // self.resolution)), "max_width": 512,
                "encoder_mapping": 3, "decoder_mapping": 8, "equalized": True, "mapping_lr_factor": 0.1,
            }  # fmt: skip
        return {
            "resolution": self.resolution, "channels": self.channels, "latent": 64 if self.resolution <= 32 else 96,
            "base_width": 16, "max_width": 64, "encoder_mapping": 3, "decoder_mapping": 2, "equalized": False,
            "mapping_lr_factor": 1.0, "to_rgb_gain": 0.3, "blur": False, "noise": False,
        }  # fmt: skip

    @property
    def betas(self) -> tuple[float, float, float]:
        """beta_rec, beta_kl, beta_neg."""
        dimensions = self.channels * self.resolution**2
        if self.name == "paper":
            return 0.1, 0.2, beta_neg(_PAPER_KL * self.resolution / 256, 0.2, dimensions)
        grey = 0.7 if self.channels == 1 else 1.0  # fashion_mnist32
        return 1.0, 1.0, beta_neg(_ABOVE * grey * _NARROW_KL[self.resolution], 1.0, dimensions)

    @property
    def objective(self) -> dict[str, Any]:
        rec, kl, neg = self.betas
        own: dict[str, Any] = (
            {"gamma_r": 1e-8, "stop_gradient": "none", "style_mixing": 0.9}
            if self.name == "paper"
            else {"gamma_r": 0, "stop_gradient": "reencoded"}
        )
        name = read_yaml(config_path(_LIKE[self.name]))["objective"]["name"]
        return {"name": name, "beta_rec": rec, "beta_kl": kl, "beta_neg": neg, **own}

    @property
    def most(self) -> float:
        """The largest useful factor on `images`."""
        if self.name == "paper":
            return min(2.0, max(1.0, 30 * self.train / _PAPER_PHASE[1]))
        return min(10.0, max(1.0, 1000 * self.train / sum(self.images(1.0).values())))

    def batches(self) -> dict[int, int]:
        """Batch size by resolution, each a multiple of the number of processes."""
        few = 16 if self.name == "narrow" else min(4 * self.processes, 512)
        table = _PAPER_BATCH if self.name == "paper" else {}
        wanted = {r: max(table.get(r, 32 if self.name == "paper" else 16), few) for r in self.resolutions}
        return {r: -(-batch // self.processes) * self.processes for r, batch in wanted.items()}

    def images(self, factor: float) -> dict[int, int]:
        """Images of each phase: the recipe's times a factor."""
        if self.name == "paper":
            phase = min(max(30 * self.train, _PAPER_PHASE[0]), _PAPER_PHASE[1])
            whole = {r: phase for r in self.resolutions} | {self.resolution: 2 * phase}
        else:
            whole = {r: _NARROW_IMAGES[r] for r in self.resolutions} | {self.resolution: _NARROW_LAST}
        batches = self.batches()
        return {r: _whole(factor * images, 2 * batches[r]) for r, images in whole.items()}

    def warmup(self, images: Mapping[int, int]) -> int:
        """Images of the warm-up as a plain VAE, in proportion."""
        if self.name == "paper":
            return _whole(images[4] / 30, self.batches()[4])  # one of the 30 passes of a phase
        total, introspective = sum(images.values()), images[self.resolution] // 3
        unit = 1_000 if introspective > 3_000 else 1
        return (total - introspective) // unit * unit


def beta_neg(resting_kl: float, beta_kl: float, dimensions: int) -> float:
    """The beta_neg with which KL(fake) settles near `resting_kl` nats, at ln(beta_neg / (2 beta_kl)) / c with
    c = 2 s beta_neg and s = 1 / dimensions. The larger of two solutions, to two digits."""

    def settles(value: float) -> float:
        return math.log(value / (2 * beta_kl)) * dimensions / (2 * value)

    low, high = 2 * math.e * beta_kl, 1e9  # beyond the maximum it decreases
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if settles(middle) > resting_kl else (low, middle)
    digits = 1 - math.floor(math.log10(low))
    return round(low, digits)


def _whole(images: float, least: int) -> int:
    """A round number of images, at least `least`."""
    unit = 10 ** max(0, math.floor(math.log10(max(images, 1))) - 1)
    return max(least, math.floor(images / unit) * unit)
