"""The common part of IntroVAE and Soft-IntroVAE: the images that the encoder judges, and the warm-up.

Symbols as in Algorithm 2: X real, Z = E(X), X_r = D(Z), Z_f ~ N(0, I), X_f = D(Z_f).
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from sivae_dist.models.base import Decoder, Encoder
from sivae_dist.models.stage import Cond, Mixing
from sivae_dist.objectives.base import DecoderObjective, Draws, EncoderObjective, Weights
from sivae_dist.objectives.elbo import reparameterize
from sivae_dist.objectives.vae import ElboSettings
from sivae_dist.settings import Images, PerGroup


def encode_both(encoder: Encoder, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """mu and logvar, each [2B, latent], of X_r and X_f, x [2B, ...]; `cond` is that of X [B, ...]."""
    if encoder.concatenates:
        mu, logvar = encoder(x, cond.twice())
    else:
        mu, logvar = (
            torch.cat(halves)
            for halves in zip(*(encoder(half, cond.of_generated()) for half in x.chunk(2)), strict=True)
        )
    return mu, logvar


def decode_both(
    decoder: Decoder, z: Tensor, cond: Cond, draws: Draws, decodings: tuple[int, int], mixing: Mixing | None = None
) -> Tensor:
    """Images [2B, ...] of the two `decodings` of Draws.noise, z [2B, latent]. Styles are mixed in the second alone."""
    if decoder.concatenates:
        both = cond.twice()._replace(mixing=mixing and mixing.behind(z[: len(z) // 2]))
        images: Tensor = decoder(z, both, draws.layer_noise(*decodings))
        return images
    conds = (cond.of_generated(), cond.of_generated()._replace(mixing=mixing))
    halves = zip(z.chunk(2), conds, decodings, strict=True)
    return torch.cat([decoder(half, one, draws.layer_noise(decoding)) for half, one, decoding in halves])


class IntrospectiveEncoderObjective(EncoderObjective[Weights]):
    def encode_and_decode(self, x: Tensor, cond: Cond, draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """mu, logvar and Z of X, line 5, each [B, latent]; X_r and X_f, line 8, each [B, C, R, R]."""
        mu, logvar = self.player(x, cond)
        z = reparameterize(mu, logvar, draws.eps[:, 0])
        cond = cond.of_generated()
        x_r = self.partner(z, cond, draws.layer_noise(0))
        with torch.no_grad():  # X_f does not depend on the encoder
            x_f = self.partner(draws.z, cond._replace(mixing=draws.mixing), draws.layer_noise(1))
        return mu, logvar, z, x_r, x_f


class IntrospectiveDecoderObjective(DecoderObjective[Weights]):
    def decode(self, z: Tensor, cond: Cond, draws: Draws) -> Tensor:
        """X_r and X_f, line 20: [2B, C, R, R]. Styles are mixed in X_f alone."""
        return decode_both(self.player, torch.cat((z, draws.z)), cond, draws, (0, 1), draws.mixing)


class IntrospectiveSettings(ElboSettings):
    betas = ("rec", "kl", "neg")
    panels = ElboSettings.panels | {"KL divergence (nats)": ("kl/real", "kl/rec", "kl/fake")}

    beta_neg: PerGroup
    """Weight of the KL divergence of generated images."""
    warmup: Images = 0
    """Images at the start of the run that train a plain VAE (the authors: one epoch)."""
    style_mixing: float = Field(0.0, ge=0, le=1)
    """Share of generated images with two styles (the authors: 0.9; not in the paper)."""

    @property
    def warmup_images(self) -> int:
        return self.warmup

    @property
    def mixing_share(self) -> float:
        return self.style_mixing

    def brief(self, terms: Mapping[str, float]) -> list[Sequence[str]]:
        error, (long, short) = super().brief(terms)
        if "kl/fake" not in terms:
            return [error, (long, short)]  # warm-up
        fake = terms["kl/fake"]
        return [error, (f"{long} fake {fake:.1f}", f"{short}/{fake:.3g}")]

    def check_length(self, images: int) -> str | None:
        if not self.warmup or 10 * self.warmup <= 9 * images:  # small recipes, as the demo, warm up for four fifths
            return None
        what = f"objective.warmup={self.warmup:,} of {images:,} images"
        if self.warmup >= images:
            raise ValueError(
                f"{what}: the run would end before its warm-up as a plain VAE does; shorten it, or train a VAE on "
                "purpose with 'objective={name: vae}'"
            )
        return f"{what}: more than nine tenths of the run train a plain VAE"
