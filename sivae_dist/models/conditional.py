"""What families share whose networks may be told the class of an image, as a one-hot vector (appendix 9.4.2).

A family becomes conditional by deriving its settings from `ConditionalSettings` and using, where `settings.classes` is
not 0, the labels of `Cond`: by `one_hot`, or by a `ClassEmbedding`.
"""

import math
from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from sivae_dist.models.base import ModelSettings
from sivae_dist.models.layers.scaled import Scaled
from sivae_dist.models.stage import Cond

_SHOWN = 5


class ConditionalSettings(ModelSettings):
    conditional: bool = False
    """Whether encoder and decoder are told the class of each image. The data set must have labels."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by label. Taken from the data set when a run is made, and compared with it whenever the run
    is continued."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if self.class_names and not self.conditional:
            raise ValueError("class_names are of a model with conditional: true, but it is false")
        if twice := [name for k, name in enumerate(self.class_names) if name in self.class_names[:k]]:
            raise ValueError(f"class_names has {twice[0]!r} twice")
        return self

    @property
    def classes(self) -> int:
        return len(self.class_names) if self.conditional else 0

    def named_classes(self) -> tuple[str, ...]:
        return self.class_names

    @property
    def is_fitted(self) -> bool:
        return not self.conditional or bool(self.class_names)

    def fitted(self, where: str, classes: tuple[str, ...]) -> Self:
        if not self.conditional:
            return self
        if not classes:
            raise ValueError(
                f"{where} has no labels, which model.conditional=true needs: prepare it from a labelled source, or "
                "leave model.conditional at false"
            )
        if self.class_names and self.class_names != classes:
            raise ValueError(
                f"{where} has {_several(classes)}, but model.class_names has {_several(self.class_names)}: name the "
                "data set that the model is for"
            )
        return self.model_copy(update={"class_names": classes})


def _several(classes: tuple[str, ...]) -> str:
    more = ", ..." * (len(classes) > _SHOWN)
    return f"{len(classes)} class{'es' * (len(classes) > 1)} ({', '.join(classes[:_SHOWN])}{more})"


def one_hot(cond: Cond, classes: int, dtype: torch.dtype) -> Tensor:
    """The labels of `cond` [B] as rows [B, classes] with a single 1. ValueError when it has none.

    A label outside of [0, classes) gives zeros; data sets and `Pretrained` refuse such ones. Nothing waits for the
    device, as torch's own would to check them.
    """
    if cond.label is None:
        raise ValueError(f"the network has {classes} classes, but no labels came with its input")
    return (cond.label[:, None] == torch.arange(classes, device=cond.label.device)).to(dtype)


class ClassEmbedding(Scaled):
    """One-hot labels -> [B, outputs]: a learned vector for each class, each value N(0, 1) at first, as those of z."""

    def __init__(self, classes: int, outputs: int, *, equalized: bool, lr_factor: float = 1.0) -> None:
        super().__init__(
            (outputs, classes), gain=math.sqrt(classes), equalized=equalized, lr_factor=lr_factor, bias=False
        )

    def beside(self, x: Tensor, cond: Cond) -> Tensor:
        """x [B, n] and the vectors of its labels, concatenated: [B, n + outputs]."""
        vectors: Tensor = self(x, cond)
        return torch.cat((x, vectors.to(x.dtype)), dim=1)

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """In the type that a pass with x computes in."""
        weight, _ = self.parameters_for(x)
        return F.linear(one_hot(cond, weight.shape[1], weight.dtype), weight)
