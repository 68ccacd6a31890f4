"""IntroVAE against a literal rendering of appendix 9.1.1, in float64.

`appendix_encoder` and `appendix_decoder` follow the printed losses with every pass through a network by itself and the
hinge as a case distinction. D(z) stands for reconstructions in one half of the cases and for samples in the other, as
section 9.1 has it; an image counts as a constant where the encoder is to push its code away. `introvae_code` is one
iteration as the code of IntroVAE's authors arranges it: one graph for both updates, the hinge of the batch's mean.

Gradients are autograd's on both sides, but for `test_gradients_are_derivatives`, which needs losses only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae_dist.objectives import IntroSettings, VaeSettings
from sivae_dist.objectives.base import Draws
from tests.sivae_dist.objectives.rendering import (
    BATCH,
    EVERY_CASE,
    TOLERANCE,
    Ascended,
    Case,
    Latent,
    Networks,
    Step,
    Stop,
    Update,
    compare,
    distance,
    encode,
    freeze,
    gradients,
    kl,
    l_rec,
    mlp,
    noises,
    norm,
    package,
    printed,
    shares,
    slopes,
    stop,
    style,
)

# --- The paper ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyper:
    margin: float
    beta_rec: float = 0.2
    beta_kl: float = 0.9
    beta_neg: float = 1.7
    s: float = 0.03
    hinge: str = "image"
    reconstruction: str = "mse"

    def settings(self) -> IntroSettings:
        return IntroSettings.model_validate(
            {
                "beta_rec": self.beta_rec,
                "beta_kl": self.beta_kl,
                "beta_neg": self.beta_neg,
                "margin": self.margin,
                "scale": self.s,
                "hinge": self.hinge,
                "reconstruction": self.reconstruction,
            }
        )


def positive_part(values: Tensor) -> Tensor:
    """[.]^+ of every value."""
    return torch.stack([value if value.item() > 0 else 0 * value for value in values])


def kl_of(net: Networks, image: Tensor) -> Tensor:
    """KL(E(image)), one number an image."""
    mu, logvar = net.encode(image)
    return kl(Latent(mu, logvar, mu))


def hinge(h: Hyper, divergence: Tensor) -> Tensor:
    return positive_part(h.margin - (divergence.mean().reshape(1) if h.hinge == "batch" else divergence)).mean()


def appendix_encoder(net: Networks, h: Hyper, x: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    noise_r, noise_f, _, _ = noises(draws)
    z = encode(net, x, draws.eps[:, 0])
    x_r = net.decode(z.sample, noise_r, None)
    x_f = net.decode(draws.z, noise_f, draws.mixing)
    real = h.beta_rec * l_rec(h.reconstruction, x, x_r) + h.beta_kl * kl(z)
    push_r = h.beta_neg * hinge(h, kl_of(net, sg(x_r)))
    push_f = h.beta_neg * hinge(h, kl_of(net, sg(x_f)))
    l_e = h.s * (real.mean() + (push_r + push_f) / 2)
    parts = {
        "rec(x)": -h.s * h.beta_rec * l_rec(h.reconstruction, x, x_r).mean(),
        "kl(x)": -h.s * h.beta_kl * kl(z).mean(),
        "hinge(x_r)": -h.s * push_r / 2,
        "hinge(x_f)": -h.s * push_f / 2,
    }
    return Ascended(-l_e, parts, z)


def appendix_decoder(net: Networks, h: Hyper, x: Tensor, z: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    """`z` is the encoder's update's."""
    noise_r, noise_f, _, _ = noises(draws)
    x_r = net.decode(z, noise_r, None)
    x_f = net.decode(draws.z, noise_f, draws.mixing)
    rec = h.beta_rec * l_rec(h.reconstruction, x, x_r).mean()
    pull_r = h.beta_neg * kl_of(net, x_r).mean()
    pull_f = h.beta_neg * kl_of(net, x_f).mean()
    l_d = h.s * (rec + (pull_r + pull_f) / 2)
    return Ascended(-l_d, {"rec(x)": -h.s * rec, "kl(x_r)": -h.s * pull_r / 2, "kl(x_f)": -h.s * pull_f / 2})


def introvae_code(case: Case, h: Hyper) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of E and D; there the decoder's weight of KL is beta_kl, and s is 1."""
    net, (noise_r, noise_f, _, _) = case.net, noises(case.draws)
    z = encode(net, case.x, case.draws.eps[:, 0])
    rec = net.decode(z.sample, noise_r, None)
    fake = net.decode(case.draws.z, noise_f, case.draws.mixing)
    loss_rec = l_rec(h.reconstruction, rec, case.x).mean()
    push = sum(torch.clamp(h.margin - kl_of(net, image.detach()).mean(), min=0) for image in (rec, fake))
    loss_e = h.beta_rec * loss_rec + h.beta_kl * kl(z).mean() + 0.5 * h.beta_neg * push
    loss_g = 0.5 * h.beta_kl * (kl_of(net, rec).mean() + kl_of(net, fake).mean())
    of_e = gradients(loss_e, net.phi, keep=True)
    first, second = gradients(loss_e, net.theta, keep=True), gradients(loss_g, net.theta)
    return of_e, {name: first[name] + second[name] for name in first}


# --- Where the margin lies ------------------------------------------------------------------------


def divergences(case: Case) -> tuple[Tensor, Tensor]:
    """KL of X_r and of X_f."""
    noise_r, noise_f, _, _ = noises(case.draws)
    with torch.no_grad():
        z = encode(case.net, case.x, case.draws.eps[:, 0])
        x_r = case.net.decode(z.sample, noise_r, None)
        return kl_of(case.net, x_r), kl_of(case.net, case.net.decode(case.draws.z, noise_f, case.draws.mixing))


def between(case: Case, kind: str = "image") -> float:
    """A margin that some of the X_r and some of the X_f have passed; by `batch`, one kind has and the other not."""
    kl_r, kl_f = divergences(case)
    if kind == "batch":
        assert (kl_r.mean() - kl_f.mean()).abs() > 0.02
        return ((kl_r.mean() + kl_f.mean()) / 2).item()
    middle = ((torch.maximum(kl_r.min(), kl_f.min()) + torch.minimum(kl_r.max(), kl_f.max())) / 2).item()
    for values in (kl_r, kl_f):
        assert 0 < (values < middle).sum() < BATCH
        assert (values - middle).abs().min() > 0.02
    return middle


def beyond(case: Case, kind: str = "image") -> float:
    """Every image is pushed."""
    return torch.cat(divergences(case)).max().item() + 1


def below(case: Case, kind: str = "image") -> float:
    """No image is."""
    return torch.cat(divergences(case)).min().item() - 0.1


MARGINS: dict[str, Callable[..., float]] = {"some": between, "all": beyond, "none": below}
EVERY_MARGIN = pytest.mark.parametrize("margin", MARGINS.values(), ids=MARGINS)
EVERY_HINGE = pytest.mark.parametrize("kind", ["image", "batch"])


def paper(case: Case, h: Hyper) -> Step:
    return printed(case, h, appendix_encoder, appendix_decoder)


def check(case: Case, h: Hyper) -> None:
    compare(package(case, h.settings()), paper(case, h))


# --- The comparison -------------------------------------------------------------------------------


@EVERY_CASE
@EVERY_HINGE
@EVERY_MARGIN
@pytest.mark.parametrize("reconstruction", ["mse", "l1", "bce"])
def test_appendix(make: Callable[..., Case], kind: str, margin: Callable[..., float], reconstruction: str) -> None:
    case = make(reconstruction)
    check(case, Hyper(margin(case, kind), hinge=kind, reconstruction=reconstruction))


@EVERY_HINGE
@pytest.mark.parametrize("blending", [False, True], ids=["whole", "blending"])
@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("mixing", [False, True], ids=["plain", "mixing"])
def test_stages_noise_and_mixing(kind: str, blending: bool, noise: bool, mixing: bool) -> None:
    case = style(blending=blending, noise=noise, mixing=mixing, seed=17)
    check(case, Hyper(between(case, kind), hinge=kind))


@EVERY_HINGE
@EVERY_MARGIN
def test_gradients_are_derivatives(kind: str, margin: Callable[..., float]) -> None:
    """The package's gradients are the slopes of the printed losses; what is stopped keeps its first value."""
    case = mlp(seed=60)
    h = Hyper(margin(case, kind), hinge=kind)
    ours = package(case, h.settings())
    for update, of, ascended in (
        (ours.encoder, case.net.phi, lambda sg: appendix_encoder(case.net, h, case.x, case.draws, sg).total),
        (ours.decoder, case.net.theta, lambda sg: appendix_decoder(case.net, h, case.x, ours.z, case.draws, sg).total),
    ):
        expected, found = slopes(update, of, ascended)
        assert found == pytest.approx(expected, rel=1e-7)


@EVERY_CASE
@EVERY_MARGIN
def test_introvae_code(make: Callable[..., Case], margin: Callable[..., float]) -> None:
    """With the hinge of the batch, where beta_neg is beta_kl: else their decoder has the latter for the former."""
    case = make(seed=20)
    h = Hyper(margin(case, "batch"), beta_kl=0.9, beta_neg=0.9, s=1.0, hinge="batch")
    ours = package(case, h.settings())
    of_e, of_d = introvae_code(case, h)
    assert distance(ours.encoder, Update(ours.encoder.loss, of_e)) < TOLERANCE
    assert distance(ours.decoder, Update(ours.decoder.loss, of_d)) < TOLERANCE


@EVERY_CASE
@EVERY_HINGE
def test_past_the_margin_the_encoder_is_a_vaes(make: Callable[..., Case], kind: str) -> None:
    case = make()
    h = Hyper(below(case), hinge=kind)
    vae = VaeSettings(beta_rec=h.beta_rec, beta_kl=h.beta_kl, scale=h.s)
    ours, plain = package(case, h.settings()), package(case, vae)
    assert distance(ours.encoder, plain.encoder) < TOLERANCE
    assert distance(ours.decoder, plain.decoder) > 1e-2


@EVERY_CASE
def test_scale_is_the_inverse_of_the_dimensions(make: Callable[..., Case]) -> None:
    case = make()
    h = Hyper(between(case), s=1 / case.x[0].numel())
    compare(package(case, h.settings().model_copy(update={"scale": None})), paper(case, h))


@EVERY_HINGE
def test_terms(kind: str) -> None:
    case = mlp()
    h = Hyper(between(case, kind), hinge=kind)
    encoder_objective, _ = h.settings().build(case.encoder, case.decoder, case.resolution, case.dimensions)
    freeze(case.decoder, True)
    loss, terms, *_ = encoder_objective(case.x, case.cond, case.draws)
    freeze(case.decoder, False)
    z = encode(case.net, case.x, case.draws.eps[:, 0])
    rec = l_rec("mse", case.x, case.net.decode(z.sample, noises(case.draws)[0], None)).mean()
    kl_r, kl_f = divergences(case)
    expected = {
        "reconstruction/real": rec,
        "reconstruction/per_value": rec / case.dimensions,
        "kl/real": kl(z).mean(),
        "kl/rec": kl_r.mean(),
        "kl/fake": kl_f.mean(),
        "elbo/real": -(h.beta_rec * rec + h.beta_kl * kl(z).mean()),
        "hinge/rec": hinge(h, kl_r),
        "hinge/fake": hinge(h, kl_f),
        "loss/encoder": loss,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-12), name


# --- Whether these tests can fail -----------------------------------------------------------------


@EVERY_CASE
@EVERY_HINGE
@EVERY_MARGIN
@pytest.mark.parametrize("reconstruction", ["mse", "l1", "bce"])
def test_every_term_matters(
    make: Callable[..., Case], kind: str, margin: Callable[..., float], reconstruction: str
) -> None:
    """In the cases of `test_appendix` every term at work makes a part of the gradient far above the tolerance."""
    case = make(reconstruction)
    h = Hyper(margin(case, kind), hinge=kind, reconstruction=reconstruction)
    ascended = appendix_encoder(case.net, h, case.x, case.draws)
    assert ascended.z is not None
    of_e = shares(ascended, case.net.phi)
    of_d = shares(appendix_decoder(case.net, h, case.x, ascended.z.sample.detach(), case.draws), case.net.theta)
    pushed = [of_e.pop("hinge(x_r)"), of_e.pop("hinge(x_f)")]
    assert min(*of_e.values(), *of_d.values()) > 0.01
    at_work = {"all": 2, "none": 0, "some": 1 if kind == "batch" else 2}
    assert sum(share > 0.01 for share in pushed) == at_work[next(k for k, v in MARGINS.items() if v is margin)]
    assert all(share > 0.01 or share == 0 for share in pushed)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "beta_rec": ({"beta_rec": 0.201}, "both"),
    "beta_kl": ({"beta_kl": 0.91}, "encoder"),
    "beta_neg": ({"beta_neg": 1.71}, "both"),
    "s": ({"s": 0.0301}, "both"),
    "hinge": ({"hinge": "batch"}, "encoder"),
    "margin": ({"margin": 1e3}, "encoder"),
}


@EVERY_CASE
@pytest.mark.parametrize(("change", "seen_by"), WRONG.values(), ids=WRONG)
def test_a_wrong_setting_shows(make: Callable[..., Case], change: dict[str, Any], seen_by: str) -> None:
    """In the update that it concerns, and in that one only."""
    case = make()
    h = Hyper(between(case))
    ours, other = package(case, h.settings()), paper(case, replace(h, **change))
    for name in ("encoder", "decoder"):
        difference = distance(getattr(ours, name), getattr(other, name))
        assert difference > 1e-4 if seen_by in (name, "both") else difference < TOLERANCE


@EVERY_CASE
def test_a_gradient_through_the_reconstructions_would_show(make: Callable[..., Case]) -> None:
    """The loss is the same: the gradient alone tells whether X_r is a constant for the encoder."""
    case = make()
    h = Hyper(between(case))
    ours = package(case, h.settings())
    through = appendix_encoder(case.net, h, case.x, case.draws, lambda value: value)
    assert ours.encoder.loss == pytest.approx(-through.total.item(), rel=TOLERANCE)
    other = gradients(-through.total, case.net.phi)
    assert norm(ours.encoder.gradients[name] - other[name] for name in other) > 1e-3 * norm(other.values())


@EVERY_CASE
@pytest.mark.parametrize("wrong", ["mixing", "noise", "eps", "z"])
def test_a_wrong_draw_shows(make: Callable[..., Case], wrong: str) -> None:
    case = make()
    h = Hyper(beyond(case))
    draws = case.draws
    other = {
        "mixing": draws._replace(mixing=None),
        "noise": draws._replace(noise=None),
        "eps": draws._replace(eps=0.99 * draws.eps),
        "z": draws._replace(z=0.99 * draws.z),
    }[wrong]
    ours, reference = package(case, h.settings()), paper(replace(case, draws=other), h)
    assert distance(ours.encoder, reference.encoder) > 1e-4
    assert distance(ours.decoder, reference.decoder) > 1e-4
