"""IntroVAE: the hard margin m of appendix 9.1.1.

    L_E = s (beta_rec L_rec(X, X_r) + beta_kl KL(Z) + beta_neg ([m - KL(Z_rf)]^+ + [m - KL(Z_ff)]^+) / 2)
    L_D = s (beta_rec L_rec(X, X_r) + beta_neg (KL(Z_rf) + KL(Z_ff)) / 2)

with [.]^+ = max(0, .) and Algorithm 2's symbols: X_r = D(E(X)) and X_f = D(Z_f) are the generated images, Z_rf and Z_ff
their codes. The appendix prints D(z) alone; section 9.1 counts reconstructions among the generated images, and each
kind is a half, as in Algorithm 2 and in IntroVAE's code. As in that code, X_r is a constant on its way into E again,
and so is Z in the decoder's update. Generated images are not reconstructed: an update costs 12 + 10 network passes.

IntroVAE needs no s. It multiplies the whole, so that Adam's eps, optimizer.clip and the warm-up mean what they mean for
Soft-IntroVAE; scale=1 is the printed form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sivae_dist.models.stage import Cond
from sivae_dist.objectives.base import DecoderTurn, Draws, EncoderTurn, Run, detached
from sivae_dist.objectives.elbo import divergence, terms_of_real
from sivae_dist.objectives.introspective import (
    IntrospectiveDecoderObjective,
    IntrospectiveEncoderObjective,
    IntrospectiveSettings,
    encode_both,
)
from sivae_dist.objectives.vae import VaeWeights
from sivae_dist.settings import PerGroup, PerResolution, at

Hinge = Literal["image", "batch"]

BELOW_REAL = (
    "KL(fake) {kl/fake:.1f} has stayed below KL(real) {kl/real:.1f} since the warm-up: the encoder does not "
    "distinguish generated images from real ones. objective.margin should be above KL(real): raise it, or lower "
    "KL(real) by lowering objective.beta_rec."
)

BEYOND_MARGIN = (
    "generated images have stayed beyond objective.margin (KL(fake) {kl/fake:.1f}, KL(real) {kl/real:.1f}): the "
    "encoder pushes none away and trains as a plain VAE's. Raise objective.margin above KL(fake)."
)


@dataclass(frozen=True)
class IntroWeights(VaeWeights):
    """The settings that hold at one resolution."""

    beta_neg: float
    margin: float
    hinge: Hinge


class IntroEncoderObjective(IntrospectiveEncoderObjective[IntroWeights]):
    def _hinge(self, kl: Tensor) -> Tensor:
        """[m - KL]^+, 0-dimensional, of KL [B]."""
        return torch.relu(self.weights.margin - (kl if self.weights.hinge == "image" else kl.mean())).mean()

    def forward(self, x: Tensor, cond: Cond, draws: Draws) -> EncoderTurn:
        w = self.weights
        with self.autocast(x):
            mu, logvar, z, x_r, x_f = self.encode_and_decode(x, cond, draws)
            mu_2, logvar_2 = encode_both(self.player, torch.cat((x_r.detach(), x_f)), cond)  # Z_rf, Z_ff
        groups = self.player.groups
        error, kl = self.distance(x, x_r), divergence(mu, logvar, groups)
        elbo = -(w.beta_rec * error + kl.weighted(w.beta_kl))
        kl_r, kl_f = divergence(mu_2, logvar_2, groups).halves()
        hinge_r, hinge_f = self._hinge(kl_r.total), self._hinge(kl_f.total)
        loss = w.scale * (-elbo.mean() + 0.5 * w.beta_neg * (hinge_r + hinge_f))
        terms = terms_of_real(x, error, kl, elbo) | {
            **kl_r.terms("rec"),
            **kl_f.terms("fake"),
            "hinge/rec": hinge_r,
            "hinge/fake": hinge_f,
            "loss/encoder": loss,
        }
        return EncoderTurn(loss, detached(terms), z.detach())


class IntroDecoderObjective(IntrospectiveDecoderObjective[IntroWeights]):
    def forward(self, x: Tensor, z: Tensor, cond: Cond, draws: Draws) -> DecoderTurn:
        w, batch = self.weights, x.shape[0]
        with self.autocast(x):
            x_1 = self.decode(z, cond, draws)  # X_r, X_f
            mu, logvar = encode_both(self.partner, x_1, cond)  # Z_rf, Z_ff
        error = self.distance(x, x_1[:batch])
        kl = divergence(mu, logvar, self.partner.groups).total
        loss = w.scale * (w.beta_rec * error.mean() + w.beta_neg * kl.mean())
        return DecoderTurn(loss, {"loss/decoder": loss.detach()})


class IntroSettings(IntrospectiveSettings):
    """IntroVAE, with a hard margin."""

    title = "IntroVAE"
    card = "An IntroVAE ([Huang et al., 2018](https://arxiv.org/abs/1807.06358))"
    tags = ("introvae", "vae")
    legend = ("m: KL(fake) in nats up to which fakes are pushed away (aim above KL(real))",)
    panels = IntrospectiveSettings.panels | {"missing to the margin (nats)": ("hinge/rec", "hinge/fake")}
    players = (IntroEncoderObjective, IntroDecoderObjective)
    against_collapse = "shorten objective.warmup, or raise objective.margin"

    name: Literal["intro"] = "intro"
    beta_kl: PerGroup = 1.0
    """Weight of the KL divergence of real images."""
    beta_neg: PerResolution = 1.0
    """Weight of the KL divergence of generated images, in both losses; the appendix searches 1 to 5 times beta_kl."""
    margin: PerResolution
    """m, in nats: up to here the encoder pushes generated images away. Above the KL(real) of a plain VAE."""
    hinge: Hinge = "image"
    """`image`: [m - KL]^+ of every image, then the mean, as printed. `batch`: of the mean KL, as in IntroVAE's code.

    The latter's mean is over the images that one process takes at once, so that the loss depends on how many these are.
    """

    def weights(self, resolution: int, dimensions: int) -> IntroWeights:
        return IntroWeights(
            **vars(super().weights(resolution, dimensions)),
            beta_neg=at(self.beta_neg, resolution, "objective.beta_neg"),
            margin=at(self.margin, resolution, "objective.margin"),
            hinge=self.hinge,
        )

    def check(self, run: Run) -> None:
        super().check(run)
        if self.hinge == "batch" and run.engine.max_batch_per_rank == "auto":
            raise ValueError("objective.hinge=batch depends on engine.max_batch_per_rank: give a number, not auto")

    def columns(self, resolution: int, dimensions: int) -> dict[str, str]:
        return super().columns(resolution, dimensions) | {"m": f"{self.weights(resolution, dimensions).margin:g}"}

    def fault(self, terms: Mapping[str, float]) -> str | None:
        fault = super().fault(terms)
        if fault or "kl/fake" not in terms:  # warm-up
            return fault
        if terms["kl/fake"] < terms["kl/real"]:
            return BELOW_REAL
        return BEYOND_MARGIN if terms["hinge/fake"] == terms["hinge/rec"] == 0 else None
