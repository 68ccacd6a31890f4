"""A user's own family with two encoders, of which one sees another image of the class: growing style networks."""

from typing import Literal

import torch
from torch import Tensor, nn

from data_pipelines.dataset import SAME_CLASS
from sivae_dist.models import MODELS, Cond, Decoder, Encoder
from sivae_dist.models.style.decoder import StyleDecoder
from sivae_dist.models.style.encoder import StyleEncoder
from sivae_dist.models.style.settings import StyleSettings


class PairedEncoder(Encoder):
    """Of the image itself, and of another one of its class: each half of mu and logvar."""

    def __init__(self, settings: "PairedSettings") -> None:
        super().__init__()
        half = settings.model_copy(update={"latent": settings.latent // 2})
        self.concatenates = settings.together
        self.content = StyleEncoder(half)
        self.class_ = StyleEncoder(half)

    def forward(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        both = (self.content(x, cond), self.class_(cond.extra.get(SAME_CLASS, x), cond))
        mu, logvar = (torch.cat(halves, dim=1) for halves in zip(*both, strict=True))
        return mu, logvar

    def parts_in_use(self, resolution: int, blending: bool) -> list[nn.Module]:
        return [part for one in (self.content, self.class_) for part in one.parts_in_use(resolution, blending)]


class PairedDecoder(StyleDecoder):
    def __init__(self, settings: "PairedSettings") -> None:
        super().__init__(settings)
        self.concatenates = settings.together

    def forward(self, z: Tensor, cond: Cond, noise: Tensor | None = None) -> Tensor:
        assert not cond.extra
        images: Tensor = super().forward(z, cond, noise)
        return images


@MODELS.add("paired")
class PairedSettings(StyleSettings):
    name: Literal["paired"] = "paired"  # type: ignore[assignment]
    class_from: Literal["another", "itself"] = "another"
    together: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (SAME_CLASS,) if self.class_from == "another" else ()

    def networks(self) -> tuple[Encoder, Decoder]:  # type: ignore[override]
        return PairedEncoder(self), PairedDecoder(self)
