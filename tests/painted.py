"""Images with a class and a content that are plain to see, and a model that reads and paints both without an error."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.config.run_settings import RunSettings, validate
from sivae_dist.models import Cond, Decoder, Encoder, Stage
from sivae_dist.models.translation import TranslationSettings
from sivae_dist.use.pretrained import Pretrained

SIDE = 32
TRAIN, TEST = 4, 3
CONTENTS = 5


def painted(dest: Path, *, named: bool = True) -> Path:
    """A prepared set: the left half of an image has the grey of its class, the right half that of its content, which
    the image is named by, or else by a number of its own. Classes for testing are others than those for training."""
    source = dest.with_name(f"{dest.name}-source")
    for label in range(TRAIN + TEST):
        for content in range(CONTENTS):
            pixels = np.empty((SIDE, SIDE, 3), np.uint8)
            pixels[:, : SIDE // 2], pixels[:, SIDE // 2 :] = 30 * label, 40 * content
            name = f"pose-{content}" if named else f"{label * CONTENTS + content:04d}"
            path = source / ("train" if label < TRAIN else "test") / f"kind-{label}" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    prepare(source, dest, PrepareSettings(resolution=SIDE, labels="folders"))
    return dest


class Reader(Encoder):
    """Means of the halves; of both where codes are `entangled`."""

    def __init__(self, entangled: bool) -> None:
        super().__init__()
        self.entangled = entangled
        self.groups = {"class": 1, "content": 1}
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        left, right = (half.flatten(1).mean(1) for half in x.chunk(2, 3))
        mu = torch.stack((left, right + 10 * left if self.entangled else right), 1)
        return mu, torch.zeros_like(mu)


class Painter(Decoder):
    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        return z.repeat_interleave(SIDE // 2, 1)[:, None, None].expand(-1, 3, SIDE, -1)


def reader(*, entangled: bool = False) -> Pretrained:
    settings = TranslationSettings(resolution=SIDE, class_latent=1, content_latent=1)
    return Pretrained(settings, Reader(entangled), Painter(), Stage(SIDE), 1000)


def tiny_translation(data: Path, *assignments: str) -> RunSettings:
    """Five steps of 8 images."""
    values = {
        "device": "cpu",
        "data": {"path": str(data), "threads": 1, "flip": False},
        "model": {
            "name": "translation", "resolution": 32, "class_latent": 3, "content_latent": 2, "widths": [2, 4, 4, 4],
            "hidden_units": 8, "decoder_width": 8, "last_width": 4,
        },
        "objective": {
            "name": "soft_intro", "beta_rec": 1.0, "beta_kl": {"class": 1.0, "content": 0.5},
            "beta_neg": {"class": 64.0, "content": 128.0},
        },
        "schedule": {"images": 40, "batch": 8, "lr_encoder": 0.003, "lr_decoder": 0.003},
        "checkpoint": {"every": 16},
        "monitoring": {"scalars_every": 8, "images_every": 0, "trace": True},
    }  # fmt: skip
    return validate(values, "translation", assignments)
