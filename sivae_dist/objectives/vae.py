"""The plain VAE, as an objective of its own and as the warm-up of the introspective ones.

The encoder minimises s (beta_rec L_rec + beta_kl KL), the decoder s beta_rec L_rec at the same z. As the decoder has
not moved in between, the two updates together are the usual joint step.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from data_pipelines.choices import sum_in
from sivae_dist.models.base import Decoder, Encoder
from sivae_dist.models.stage import Cond
from sivae_dist.objectives.base import (
    DecoderObjective,
    DecoderTurn,
    Draws,
    EncoderObjective,
    EncoderTurn,
    Objective,
    Run,
    detached,
)
from sivae_dist.objectives.distances import DISTANCES, Reconstruction, kinds, make_distance
from sivae_dist.objectives.elbo import Beta, divergence, reparameterize, shown, terms_of_real
from sivae_dist.perceptual.weights import VggFiles
from sivae_dist.published import check_hexadecimal
from sivae_dist.settings import MAY_CHANGE, PerGroup, PerResolution, at, at_each

_KL = "kl/real"

COLLAPSED = 0.05
"""KL(real), in nats, below which z says nothing of an image: at most that much. The squared error of Gaussian data can
then be no less than exp(-2 * 0.05) = 0.90 of that of their mean."""


def _collapse(term: str) -> str:
    """Of all of z, or of a group, by the name of its term."""
    group = term.removeprefix(_KL).removeprefix("/")
    what = f"KL(real) of {group}" if group else "KL(real)"
    so = f"the code of {group} says nothing" if group else "the decoder ignores z and generates a single mean"
    return (
        f"posterior collapse: {what} {{{term}:.3g}} has stayed below {COLLAPSED} nats, so that {so}. Lower "
        "objective.beta_kl or raise objective.beta_rec"
    )


def _check_groups(key: str, value: object, groups: Collection[str]) -> None:
    """ValueError when there are values for other groups of z than there are."""
    if isinstance(value, dict) and any(isinstance(name, str) for name in value) and set(value) != set(groups):
        named = f"the groups of this model's z are {', '.join(groups)}" if groups else "this model's z has no groups"
        raise ValueError(f"objective.{key} has values for {', '.join(map(str, value))}, but {named}")


@dataclass(frozen=True)
class VaeWeights:
    """The settings that hold at one resolution."""

    beta_rec: float
    beta_kl: Beta
    scale: float


class VaeEncoderObjective(EncoderObjective[VaeWeights]):
    def forward(self, x: Tensor, cond: Cond, draws: Draws) -> EncoderTurn:
        w = self.weights
        with self.autocast(x):
            mu, logvar = self.player(x, cond)
            z = reparameterize(mu, logvar, draws.eps[:, 0])
            reconstruction = self.partner(z, cond.of_generated(), draws.layer_noise(0))
        error = self.distance(x, reconstruction)
        kl = divergence(mu, logvar, self.player.groups)
        elbo = -(w.beta_rec * error + kl.weighted(w.beta_kl))
        loss = -w.scale * elbo.mean()
        terms = terms_of_real(x, error, kl, elbo) | {"loss/encoder": loss}
        return EncoderTurn(loss, detached(terms), z.detach())


class VaeDecoderObjective(DecoderObjective[VaeWeights]):
    def forward(self, x: Tensor, z: Tensor, cond: Cond, draws: Draws) -> DecoderTurn:
        w = self.weights
        with self.autocast(x):
            reconstruction = self.player(z, cond.of_generated(), draws.layer_noise(0))
        error = self.distance(x, reconstruction)
        loss = w.scale * w.beta_rec * error.mean()
        return DecoderTurn(loss, {"loss/decoder": loss.detach()})


class ElboSettings(Objective):
    """The settings that all objectives here share: the weights in the ELBO of real images."""

    players: ClassVar[tuple[type[EncoderObjective[Any]], type[DecoderObjective[Any]]]]
    """The objectives of encoder and decoder once the warm-up is over."""
    betas: ClassVar[tuple[str, ...]] = ("rec", "kl")
    """Weights that a dry run shows, by the end of their names."""
    against_collapse: ClassVar[str] = ""
    """What else helps against posterior collapse (appendix 9.5): the end of a sentence, after a comma."""
    panels = {
        "reconstruction error of a value": ("reconstruction/per_value",),
        "KL divergence (nats)": ("kl/real",),
        **Objective.panels,
    }

    beta_rec: PerResolution = 1.0
    """Weight of the reconstruction error."""
    beta_kl: PerGroup = 1.0
    """Weight of the KL divergence."""
    scale: float | None = Field(None, gt=0)
    """Factor s of the losses; null: 1 / (C H W) of the final images, in every phase."""
    reconstruction: Annotated[Reconstruction, sum_in(DISTANCES)] = "mse"
    """Distance of an image from its reconstruction. Summed over its values: `mse` is the squared error, `l1` the
    absolute one, `bce` the cross entropy in nats, for which model.output=tanh is needed. `vgg`: the perceptual distance
    of LORD, a mean over features of VGG16 (docs/training.md); `vgg-random`: the same with random weights, for tests.
    Or weights of a sum, `{vgg: 1, mse: 0.1}`."""
    vgg_weights: Annotated[str | None, MAY_CHANGE] = None
    """The file of weights of `vgg`, torchvision's .pth or the safetensors that sivae keeps of it; `~` and `$VARIABLES`
    are replaced. By default what is kept in the user's cache folder, else torch's hub cache
    (`$TORCH_HOME/hub/checkpoints`), into which it is downloaded if possible."""
    vgg_sha256: Annotated[str | None, AfterValidator(check_hexadecimal)] = None
    """Checksum of that .pth, or its first digits, if it deliberately differs from the usual one."""

    def weights(self, resolution: int, dimensions: int) -> VaeWeights:
        """The values that apply at `resolution`; `dimensions` is C H W of the final images."""
        return VaeWeights(
            beta_rec=at(self.beta_rec, resolution, "objective.beta_rec"),
            beta_kl=at_each(self.beta_kl, resolution, "objective.beta_kl"),
            scale=self.scale if self.scale is not None else 1 / dimensions,
        )

    def build(
        self,
        encoder: Encoder,
        decoder: Decoder,
        resolution: int,
        dimensions: int,
        *,
        warming_up: bool = False,
        amp: torch.dtype | None = None,
    ) -> tuple[EncoderObjective[Any], DecoderObjective[Any]]:
        weights = self.weights(resolution, dimensions)
        distance = make_distance(self.reconstruction, self._files, encoder, amp)
        of_encoder, of_decoder = VaeSettings.players if warming_up else self.players
        return (
            of_encoder(weights, encoder, decoder, distance, amp),
            of_decoder(weights, decoder, encoder, distance, amp),
        )

    def check(self, run: Run) -> None:
        for resolution in run.model.resolutions:
            self.weights(resolution, run.model.dimensions)  # ValueError for a missing value
        for beta in ("beta_kl", "beta_neg"):
            _check_groups(beta, getattr(self, beta, None), run.model.groups)
        shape = run.model.shape(run.model.resolutions[-1])
        for name, kind in kinds(self.reconstruction).items():
            if kind.bounded and not run.model.bounded:
                raise ValueError(f"objective.reconstruction={name} needs images inside [-1, 1]: set model.output=tanh")
            if not kind.takes(shape):
                raise ValueError(f"objective.reconstruction={name} does not compare samples of shape {list(shape)}")

    def prepare(self) -> str | None:
        digests = [digest for kind in kinds(self.reconstruction).values() if (digest := kind.prepare(self._files))]
        return " ".join(digests) or None

    def feature_values(self, shape: tuple[int, ...]) -> int:
        return sum(kind.feature_values(shape) for kind in kinds(self.reconstruction).values())

    def located(self, absolute: Callable[[str], str]) -> Self:
        path = self.vgg_weights
        return self.model_copy(update={"vgg_weights": None if path is None else absolute(path)})

    def columns(self, resolution: int, dimensions: int) -> dict[str, str]:
        weights = self.weights(resolution, dimensions)
        betas = "/".join(shown(getattr(weights, f"beta_{beta}")) for beta in self.betas)
        return {f"beta {'/'.join(self.betas)}": betas}

    def brief(self, terms: Mapping[str, float]) -> list[Sequence[str]]:
        kl = terms[_KL]
        return [(f"rec {terms['reconstruction/per_value']:.4f}",), (f"KL {kl:.1f}", f"KL {kl:.3g}")]

    def fault(self, terms: Mapping[str, float]) -> str | None:
        for name, kl in terms.items():
            if kl < COLLAPSED and (name == _KL or name.startswith(f"{_KL}/")):
                return ", ".join(filter(None, (_collapse(name), self.against_collapse))) + "."
        return None

    @property
    def _files(self) -> VggFiles:
        return VggFiles(self.vgg_weights, self.vgg_sha256)


class VaeSettings(ElboSettings):
    """The plain VAE."""

    title = "VAE"
    card = "A variational autoencoder ([Kingma & Welling, 2013](https://arxiv.org/abs/1312.6114))"
    tags = ("vae",)
    players = (VaeEncoderObjective, VaeDecoderObjective)
    against_collapse = "or train Soft-IntroVAE with the same weights"

    name: Literal["vae"] = "vae"
