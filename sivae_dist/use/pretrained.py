"""Trained networks for pictures, evaluation and your own programs.

What is said here of images [N, C, R, R] holds for points [N, D] of models whose samples are such vectors, but that they
have no bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from sivae_dist.models import Cond, Decoder, Encoder, Mixing, ModelSettings, Stage
from sivae_dist.models.stage import blend_real
from sivae_dist.step.randomness import normals
from sivae_dist.use.classes import Classes, class_numbers

Space = Literal["z", "w"]
"""The latent space proper, or that of the styles it is mapped to."""

MEAN_OF = 10_000
"""Latents whose mean w truncation pulls towards."""

TRANSLATION = ("class", "content")
"""The groups of z of a model that translates images."""

MAX_PSI = 2.0
"""Beyond this, truncation leaves all that the decoder has seen."""

_LARGEST_PIXEL = 10.0
"""A linear output leaves [-1, 1] by a little, and may be encoded again; pixels in 0..255 go beyond."""

_FROM_PIXELS = "convert pixels 0..255 by x / 127.5 - 1"


@dataclass(frozen=True)
class Pretrained:
    """Both networks and the stage of growth they had reached.

    Nothing here trains: no method leaves a graph behind, and none changes the networks, which may be in training.
    Layer noise is left out, at its mean. Where the model has classes, `labels` are those of the images, by name or
    number, one for all or one for each; ValueError when they are missing, not wanted, or none of the classes.
    """

    settings: ModelSettings
    encoder: Encoder
    decoder: Decoder
    stage: Stage
    images: int
    """Images seen in training."""
    live: bool = False
    """Whether these are the weights in training instead of their moving average."""
    data: str | None = None
    """Digest of the data set that they were trained on."""

    @property
    def device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights, latents and the encoder's input."""
        return next(self.decoder.parameters()).dtype

    def latents(self, first: int, count: int, seed: int = 0) -> Tensor:
        """z [count, latent] from the prior, of the samples number first ... first + count - 1, none of them negative.

        A row depends only on the seed and its number. Drawn on the CPU, so that it is the same on every device.
        """
        if min(first, count, seed) < 0:
            raise ValueError(f"seed, first and count cannot be negative: {seed}, {first}, {count}")
        return self._prior(seed, "sample", first, count)

    def _prior(self, seed: int, purpose: str, first: int, count: int) -> Tensor:
        z = normals(seed, purpose, first, count, self.settings.latent, torch.device("cpu"))
        return z.to(self.device, self.dtype)

    @torch.no_grad()
    def encode(self, x: Tensor, labels: Classes | None = None) -> tuple[Tensor, Tensor]:
        """Images [N, C, R, R] in [-1, 1], or points [N, D] -> (mu, logvar) of q(z|x), each [N, latent].

        ValueError when they do not have the stage's resolution or the model's channels, are not of a floating-point
        type, or hold values far outside of [-1, 1], as pixels 0..255 do; of points when one is not finite.
        """
        images = self.settings.of_images
        _check(x, "images" if images else "points", self.settings.shape(self.stage.resolution))
        largest = x.abs().amax().item() if x.numel() else 0.0
        if images and not largest <= _LARGEST_PIXEL:
            raise ValueError(f"images must lie in [-1, 1], but these reach {largest:g}; {_FROM_PIXELS}")
        if not math.isfinite(largest):
            raise ValueError("points must be finite")
        mu, logvar = self.encoder(
            blend_real(x.to(self.device, self.dtype), self.stage.blend), self._cond(len(x), labels)
        )
        return mu, logvar

    @torch.no_grad()
    def decode(self, z: Tensor, labels: Classes | None = None) -> Tensor:
        """z [N, latent] -> images [N, C, R, R] around [-1, 1]. ValueError for another shape or type."""
        _check(z, "z", (self.settings.latent,))
        images: Tensor = self.decoder(z.to(self.device, self.dtype), self._cond(len(z), labels))
        return images

    @torch.no_grad()
    def styles(self, z: Tensor, labels: Classes | None = None) -> Tensor:
        """z [N, latent] -> w [N, latent]. ValueError for another shape or type."""
        _check(z, "z", (self.settings.latent,))
        w: Tensor = self._styled.mapping(z.to(self.device, self.dtype), self._cond(len(z), labels))
        return w

    @torch.no_grad()
    def decode_styles(self, w: Tensor) -> Tensor:
        """w [N, latent] -> images [N, C, R, R] around [-1, 1]. ValueError for another shape or type."""
        _check(w, "w", (self.settings.latent,))
        images: Tensor = self._behind_mapping(w.to(self.device, self.dtype), Cond(self.stage))
        return images

    @cached_property
    def _behind_mapping(self) -> Decoder:
        """The decoder without its mapping: it takes w in the place of z."""
        return self._styled.behind_mapping()

    @property
    def _styled(self) -> Any:
        """The decoder, which has styles. ValueError when it has none."""
        if not self.settings.styled:
            raise ValueError(f"a model of the kind {self.settings.name} has no styles w")
        return self.decoder

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes by label; empty when the model has none."""
        return self.settings.named_classes()

    def labelled(self, count: int, labels: Classes | None) -> Tensor | None:
        """Labels [count] of these classes, None when the model has none. ValueError as stated for the class."""
        names = self.class_names
        if (labels is not None) != bool(names):
            raise ValueError(
                f"the model has {len(names)} classes: give labels [N]" if names else "the model has no classes"
            )
        return None if labels is None else class_numbers(names, labels, count).to(self.device)

    def _cond(self, count: int, labels: Classes | None) -> Cond:
        return Cond(self.stage, self.labelled(count, labels))

    def labels(self, numbers: Sequence[int]) -> Tensor | None:
        """Classes of the samples with these numbers, one after the other; None when the model has none."""
        classes = self.settings.classes
        return torch.tensor(numbers, device=self.device) % classes if classes else None

    def mean_w(self, batch: int = 1000, *, labels: Tensor | None = None) -> Tensor:
        """The mean [latent] of w over 10,000 latents, always the same ones; of `labels` [N] each class's own,
        [N, latent]."""
        if labels is None:
            return self._mean_w(batch, None)
        classes, places = labels.unique(return_inverse=True)
        return torch.stack([self._mean_w(batch, int(one)) for one in classes])[places]

    def _mean_w(self, batch: int, label: int | None) -> Tensor:
        total = torch.zeros(self.settings.latent, dtype=torch.float64, device=self.device)
        for first in range(0, MEAN_OF, batch):
            count = min(batch, MEAN_OF - first)
            total += self.styles(self._prior(0, "mean w", first, count), label).double().sum(0)
        return (total / MEAN_OF).to(self.dtype)

    def truncate(self, w: Tensor, psi: float, mean: Tensor | None = None, *, labels: Tensor | None = None) -> Tensor:
        """w [N, latent] -> mean_w + psi (w - mean_w), StyleGAN's truncation trick: less variety, fewer odd images.

        `mean` is mean_w() where it is at hand. `labels` [N], where the model has classes, whose own means these are.
        ValueError for a psi that is not from -2 to 2.
        """
        if not -MAX_PSI <= psi <= MAX_PSI:
            raise ValueError(
                f"truncation {psi:g} is not from {-MAX_PSI:g} to {MAX_PSI:g}; 1 leaves w unchanged, 0 gives its mean"
            )
        return w if psi == 1 else torch.lerp(self.mean_w(labels=labels) if mean is None else mean, w, psi)

    def sample(
        self,
        count: int,
        seed: int = 0,
        *,
        classes: Classes | None = None,
        first: int = 0,
        truncation: float = 1.0,
        batch: int = 64,
    ) -> Tensor:
        """Images [count, C, R, R] around [-1, 1]: the samples number first ... first + count - 1 of the prior.

        Each depends only on the seed, its number and its class: `classes`, one for all or one for each, or else one
        after the other by number; w is truncated to `truncation`, of which 1 is none. ValueError for a negative seed
        or number, and as `truncate`.
        """
        z = self.latents(first, count, seed)
        labels = self.labels(range(first, first + count)) if classes is None else self.labelled(count, classes)
        return self.draw(z, labels, truncation=truncation, batch=batch)

    def draw(
        self,
        z: Tensor,
        labels: Classes | None = None,
        *,
        truncation: float = 1.0,
        mean: Tensor | None = None,
        batch: int = 64,
    ) -> Tensor:
        """z [N, latent] -> images [N, C, R, R], truncated as `truncate`."""
        own = self.labelled(len(z), labels)
        if self.settings.styled:
            w = self.truncate(self.styles(z, own), truncation, mean, labels=own)
            return torch.cat([self.decode_styles(part) for part in w.split(batch)])
        if truncation != 1:
            raise ValueError(f"truncation applies to styles, and a model of the kind {self.settings.name} has none")
        parts = [None] * len(z) if own is None else own.split(batch)
        return torch.cat([self.decode(part, y) for part, y in zip(z.split(batch), parts, strict=False)])

    def reconstruct(
        self, x: Tensor, batch: int = 64, *, labels: Classes | None = None, classes: Classes | None = None
    ) -> Tensor:
        """Images [N, C, R, R] in [-1, 1] through the encoder's mean and the decoder; `classes`: decoded as these in
        the place of their own `labels`."""
        own = self.labelled(len(x), labels)
        shown = own if classes is None else self.labelled(len(x), classes)
        images = []
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            mu, _ = self.encode(x[part], None if own is None else own[part])
            images.append(self.decode(mu, None if shown is None else shown[part]))
        return torch.cat(images)

    def transfer(self, of_class: Tensor, of_content: Tensor, batch: int = 64) -> Tensor:
        """Content transfer (appendix 9.4.4) between [N, C, R, R] and [N, C, R, R] in [-1, 1]: images [N, C, R, R] with
        the class of the first and the content of the second, through the encoders' means. ValueError when z has no
        groups `class` and `content`."""
        self.check_translates()
        parts = zip(of_class.split(batch), of_content.split(batch), strict=True)
        return torch.cat([self.decode(self._exchanged(self.encode(a)[0], self.encode(b)[0])) for a, b in parts])

    def translate(self, of_class: Tensor, of_content: Tensor, batch: int = 64) -> Tensor:
        """`transfer` of each of [M, C, R, R] with each of [N, C, R, R]: images [M, N, C, R, R]."""
        self.check_translates()
        first, second = (
            torch.cat([self.encode(part)[0] for part in images.split(batch)]) for images in (of_class, of_content)
        )
        z = self._exchanged(first.repeat_interleave(len(second), 0), second.repeat(len(first), 1))
        return torch.cat([self.decode(part) for part in z.split(batch)]).unflatten(0, (len(first), len(second)))

    def check_translates(self) -> None:
        """ValueError unless z has the groups `class` and `content`."""
        if tuple(self.settings.groups) != TRANSLATION:
            raise ValueError(
                f"a model of the kind {self.settings.name} has no codes of class and content: content transfer needs "
                "one of image translation"
            )

    def groups(self, codes: Tensor) -> dict[str, Tensor]:
        """Codes [N, latent] by the names of z's groups, [N, dimensions] each; empty when it has none."""
        sizes = list(self.settings.groups.values())
        return dict(zip(self.settings.groups, codes.split(sizes, 1), strict=True)) if sizes else {}

    def _exchanged(self, of_class: Tensor, of_content: Tensor) -> Tensor:
        return torch.cat((self.groups(of_class)["class"], self.groups(of_content)["content"]), 1)

    def interpolate(
        self, z: Tensor, steps: int = 7, space: Space = "z", batch: int = 64, *, labels: Classes | None = None
    ) -> Tensor:
        """Images between codes (appendix 9.4.3): two z [2, latent] give a line of `steps` + 1, the codes' own included.

        Four, of the corners top left, top right, bottom left and bottom right, give a square
        [steps + 1, steps + 1, C, R, R]. The appendix interpolates z; the authors' figure is made in w. Where the model
        has classes, all is of the one that `labels` names; in w the codes may have one each.
        """
        _check(z, "z", (self.settings.latent,))
        if len(z) not in (2, 4) or steps < 1:
            raise ValueError("interpolation takes two or four codes and at least one step")
        own = self.labelled(len(z), labels)
        if own is not None and space == "z" and (own != own[0]).any():
            raise ValueError("codes of several classes have nothing between them in z: interpolate within one, or in w")
        codes = self.styles(z, own) if space == "w" else z.to(self.device, self.dtype)
        at = torch.linspace(0, 1, steps + 1, device=self.device, dtype=self.dtype)[:, None]
        if len(z) == 4:
            left, right = (torch.lerp(codes[k], codes[k + 2], at)[:, None] for k in (0, 1))
        else:
            left, right = codes
        between = torch.lerp(left, right, at)
        label = None if own is None else int(own[0])
        parts = between.flatten(0, -2).split(batch)
        images = torch.cat([self.decode_styles(part) if space == "w" else self.decode(part, label) for part in parts])
        return images.unflatten(0, between.shape[:-1])

    @torch.no_grad()
    def style_mix(
        self,
        coarse: Tensor,
        fine: Tensor,
        cutoff: int,
        *,
        labels: Classes | None = None,
        truncation: float = 1.0,
        batch: int = 64,
    ) -> Tensor:
        """Every z of `coarse` [M, latent] with every z of `fine` [N, latent]: images [M, N, C, R, R].

        The layers before `cutoff` take their style from the first, the others from the second. `labels`: one for all,
        or one for each of `coarse`, then of `fine`. ValueError when there are no such layers on one side.
        """
        layers = self._styled.layer_count(self.stage.resolution)
        if not 0 < cutoff < layers:
            raise ValueError(f"the cutoff must lie between layers 1 and {layers - 1} at {self.stage.resolution} px")
        z = torch.cat((coarse, fine))
        own = self.labelled(len(z), labels)
        w = self.truncate(self.styles(z, own), truncation, labels=own)
        rows, columns = w[: len(coarse)], w[len(coarse) :]
        first, second = rows.repeat_interleave(len(fine), 0), columns.repeat(len(coarse), 1)
        images = [
            self._behind_mapping(
                a, Cond(self.stage, mixing=Mixing(b, torch.full((len(a),), cutoff, device=self.device)))
            )
            for a, b in zip(first.split(batch), second.split(batch), strict=True)
        ]
        return torch.cat(images).unflatten(0, (len(coarse), len(fine)))


def _check(x: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """ValueError unless x is [N, *shape] of a floating-point type."""
    if x.dim() != 1 + len(shape) or tuple(x.shape[1:]) != shape:
        raise ValueError(f"{name} must be [N, {', '.join(map(str, shape))}], not {list(x.shape)}")
    if not x.is_floating_point():
        hint = f"; {_FROM_PIXELS}" if name == "images" else ""
        raise ValueError(f"{name} must be floating-point numbers, not {str(x.dtype).removeprefix('torch.')}{hint}")
