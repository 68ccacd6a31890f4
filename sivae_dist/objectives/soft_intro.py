"""Soft-IntroVAE: Algorithm 2 and equation 7 of the appendix.

Symbols: X real, Z = E(X), X_r = D(Z), Z_f ~ N(0, I), X_f = D(Z_f), Z_rf = E(X_r), Z_ff = E(X_f), X_rf = D(Z_rf),
X_ff = D(Z_ff). An update costs 16 + 12 network passes instead of the 33 of the authors' code: E(X) crosses to the
decoder's update as a value, and line 22's stop-gradient spares the decoder a backward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from sivae_dist.models.stage import Cond
from sivae_dist.objectives.base import DecoderTurn, Draws, EncoderTurn, detached
from sivae_dist.objectives.elbo import Beta, divergence, of_each, reparameterize, shown, terms_of_real
from sivae_dist.objectives.introspective import (
    IntrospectiveDecoderObjective,
    IntrospectiveEncoderObjective,
    IntrospectiveSettings,
    decode_both,
    encode_both,
)
from sivae_dist.objectives.vae import VaeWeights
from sivae_dist.settings import PerGroup, at_each

StopGradient = Literal["none", "reencoded"]


DEAD_EXPONENT = (
    "KL(fake) {kl/fake:.1f} has stayed below KL(real) {kl/real:.1f} since the warm-up: generated images are not pushed "
    "away and the model trains as a plain VAE. Lower objective.beta_neg (see the dry run's column 'resting KL', which "
    "should lie at 1 to 2 times KL(real))."
)


@dataclass(frozen=True)
class SoftIntroWeights(VaeWeights):
    """The settings that hold at one resolution."""

    beta_neg: Beta
    gamma_r: float
    alpha: float
    stop_gradient: StopGradient

    @property
    def slope(self) -> Beta:
        """c, by which the exponent of a fake falls for every nat of its KL divergence."""
        return of_each(lambda neg: self.alpha * self.scale * neg, self.beta_neg)

    @property
    def resting_kl(self) -> Beta:
        """The KL(fake) that is reached (nats): the push 0.5 beta_neg exp(-c KL) meets the decoder's pull beta_kl.

        Of groups of z each one's own, as if the others' were 0; all of them share one exponent, sum of c KL.
        """

        def one(neg: float, kl: float, slope: float) -> float:
            return math.log(neg / (2 * kl)) / slope if neg > 0 and kl > 0 else math.nan

        return of_each(one, self.beta_neg, self.beta_kl, self.slope)


class SoftIntroEncoderObjective(IntrospectiveEncoderObjective[SoftIntroWeights]):
    def forward(self, x: Tensor, cond: Cond, draws: Draws) -> EncoderTurn:
        w, batch = self.weights, x.shape[0]
        encode, decode = self.player, self.partner
        with self.autocast(x):
            mu, logvar, z, x_r, x_f = self.encode_and_decode(x, cond, draws)  # lines 5, 8
            # The literal algorithm sends the gradient through X_r into the encoder once more, the authors' code not.
            again = torch.cat((x_r, x_f) if w.stop_gradient == "none" else (x_r.detach(), x_f))
            mu_2, logvar_2 = encode_both(encode, again, cond)  # line 9
            z_2 = reparameterize(mu_2, logvar_2, draws.eps[:, 1:].transpose(0, 1).flatten(0, 1))
            x_2 = decode_both(decode, z_2, cond, draws, (2, 3))  # line 10
        groups = encode.groups
        error, kl = self.distance(x, x_r), divergence(mu, logvar, groups)
        elbo = -(w.beta_rec * error + kl.weighted(w.beta_kl))  # line 11
        error_2 = self.distance(torch.cat((x_r, x_f)), x_2)
        kl_2 = divergence(mu_2, logvar_2, groups)
        elbo_2 = -(w.beta_rec * error_2 + kl_2.weighted(w.beta_neg))  # lines 12, 13
        exp_elbo = torch.exp(w.alpha * w.scale * elbo_2) / w.alpha  # lines 14, 15; alpha is 2 there
        exp_elbo_r, exp_elbo_f = exp_elbo[:batch].mean(), exp_elbo[batch:].mean()
        loss = -w.scale * elbo.mean() + 0.5 * (exp_elbo_r + exp_elbo_f)  # line 16, minimised
        kl_r, kl_f = kl_2.halves()
        terms = terms_of_real(x, error, kl, elbo) | {
            "reconstruction/rec": error_2[:batch].mean(),
            "reconstruction/fake": error_2[batch:].mean(),
            **kl_r.terms("rec"),
            **kl_f.terms("fake"),
            "exp_elbo/rec": exp_elbo_r,
            "exp_elbo/fake": exp_elbo_f,
            "loss/encoder": loss,
        }
        return EncoderTurn(loss, detached(terms), z.detach())


class SoftIntroDecoderObjective(IntrospectiveDecoderObjective[SoftIntroWeights]):
    def forward(self, x: Tensor, z: Tensor, cond: Cond, draws: Draws) -> DecoderTurn:
        w, batch = self.weights, x.shape[0]
        with self.autocast(x):
            x_1 = self.decode(z, cond, draws)  # line 20
            mu, logvar = encode_both(self.partner, x_1, cond)  # line 21
        # Line 23 lacks a minus sign: lines 26 and 27 and equation 7 need it.
        error = self.distance(x, x_1[:batch])
        fake = divergence(mu, logvar, self.partner.groups).weighted(w.beta_kl)
        if w.gamma_r:
            with torch.no_grad(), self.autocast(x):  # line 22, sg
                z_2 = reparameterize(mu, logvar, draws.eps[:, 1:].transpose(0, 1).flatten(0, 1))
                x_2 = decode_both(self.player, z_2, cond, draws, (2, 3))
            fake = fake + w.gamma_r * w.beta_rec * self.distance(x_1, x_2)
        fake_r, fake_f = fake[:batch].mean(), fake[batch:].mean()  # lines 24, 25
        loss = w.scale * (w.beta_rec * error.mean() + 0.5 * (fake_r + fake_f))  # line 26, minimised
        return DecoderTurn(loss, {"loss/decoder": loss.detach()})


class SoftIntroSettings(IntrospectiveSettings):
    """Soft-IntroVAE, Algorithm 2 and equation 7."""

    title = "Soft-IntroVAE"
    card = "A Soft-IntroVAE ([Daniel & Tamar, 2021](https://arxiv.org/abs/2012.13253))"
    tags = ("soft-introvae", "vae")
    legend = (
        "c: fall of a fake's exponent per nat",
        "resting KL: nats where KL(fake) settles (aim at 1-2 times KL(real))",
    )
    panels = IntrospectiveSettings.panels | {"expELBO": ("exp_elbo/rec", "exp_elbo/fake")}
    players = (SoftIntroEncoderObjective, SoftIntroDecoderObjective)
    against_collapse = (
        "shorten objective.warmup, or set objective.beta_neg to what gives a larger 'resting KL' in the dry run"
    )

    name: Literal["soft_intro"] = "soft_intro"
    beta_kl: PerGroup = 1.0
    """Weight of the KL divergence of real images (encoder) and of generated ones (decoder)."""
    beta_neg: PerGroup = 256.0
    """Weight of the KL divergence of generated images inside the encoder's exponent."""
    gamma_r: float = Field(1e-8, ge=0)
    """Weight of the reconstruction of generated images in the decoder's loss; 0 saves two of 28 passes."""
    alpha: float = Field(2.0, gt=0)
    """alpha in (1/alpha) exp(alpha s ELBO): 2 in Algorithm 2, 1 in the main text (appendix 9.6)."""
    stop_gradient: StopGradient = "none"
    """`none`: Algorithm 2 as printed. `reencoded`: X_r is encoded again as a constant, as in the authors' code."""

    def weights(self, resolution: int, dimensions: int) -> SoftIntroWeights:
        return SoftIntroWeights(
            **vars(super().weights(resolution, dimensions)),
            beta_neg=at_each(self.beta_neg, resolution, "objective.beta_neg"),
            gamma_r=self.gamma_r,
            alpha=self.alpha,
            stop_gradient=self.stop_gradient,
        )

    def columns(self, resolution: int, dimensions: int) -> dict[str, str]:
        weights = self.weights(resolution, dimensions)
        own = {"c": shown(weights.slope, ".3g"), "resting KL": shown(weights.resting_kl, ".1f")}
        return super().columns(resolution, dimensions) | own

    def remarks(self, resolution: int, dimensions: int) -> dict[str, str]:
        resting = shown(self.weights(resolution, dimensions).resting_kl, ".0f")
        return {"beta_neg": f"KL(fake) settles near {resting} nats: should be 1 to 2 times kl/real"}

    def fault(self, terms: Mapping[str, float]) -> str | None:
        dead = "kl/fake" in terms and terms["kl/fake"] < terms["kl/real"]
        return super().fault(terms) or (DEAD_EXPONENT if dead else None)
