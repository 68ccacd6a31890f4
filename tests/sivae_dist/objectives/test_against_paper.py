"""The objective against a literal rendering of appendix 9.1: Algorithm 2 and equation 7, in float64.

`algorithm_2_*` and `equation_7` below follow the printed lines one by one, with every pass through a network
by itself, and know nothing of the package's objectives but what their settings mean. What the paper leaves
open: reconstruction errors are summed over an image and KL divergences over the latent, in nats; the
exponential is taken for each image and averaged over the batch; 1/alpha exp(alpha s ELBO) has alpha = 2 in
Algorithm 2; the cross entropy bounds what it takes logarithms of.

Gradients are autograd's on both sides, but for `test_gradients_are_derivatives`, which needs losses only.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sivae_dist.models.stage import Mixing
from sivae_dist.objectives.base import Draws
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from tests.sivae_dist.objectives.rendering import (
    CASES,
    EVERY_CASE,
    TOLERANCE,
    Ascended,
    Beta,
    Case,
    Latent,
    Networks,
    Step,
    Stop,
    Update,
    compare,
    distance,
    draw,
    encode,
    freeze,
    gradients,
    kl_parts,
    l_rec,
    mlp,
    noises,
    norm,
    package,
    parameters,
    printed,
    residual,
    shares,
    slopes,
    stop,
    style,
    translation,
    weighted,
)

# --- The paper ------------------------------------------------------------------------------------


def elbo(kind: str, beta_rec: float, beta_kl: Beta, target: Tensor, image: Tensor, z: Latent) -> Tensor:
    return -1 * (beta_rec * l_rec(kind, target, image) + weighted(beta_kl, z))  # Lines 31 to 34


@dataclass(frozen=True)
class Hyper:
    beta_rec: float = 0.2
    beta_kl: Beta = 0.9
    beta_neg: Beta = 8.0
    gamma_r: float = 0.3
    s: float = 0.003
    alpha: float = 2.0
    reconstruction: str = "mse"
    stop_gradient: str = "none"

    def settings(self) -> SoftIntroSettings:
        return SoftIntroSettings(
            beta_rec=self.beta_rec,
            beta_kl=self.beta_kl,
            beta_neg=self.beta_neg,
            gamma_r=self.gamma_r,
            scale=self.s,
            alpha=self.alpha,
            reconstruction=self.reconstruction,
            stop_gradient=self.stop_gradient,
        )


def algorithm_2_encoder(net: Networks, h: Hyper, x: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    kind = h.reconstruction
    z = encode(net, x, draws.eps[:, 0])  # 5
    z_f = draws.z  # 6
    x_r = net.decode(z.sample, noise_r, None)  # 8
    x_f = net.decode(z_f, noise_f, draws.mixing)
    again_r, again_f = x_r, x_f
    if h.stop_gradient == "reencoded":
        again_r, again_f = sg(x_r), sg(x_f)
    z_rf = encode(net, again_r, draws.eps[:, 1])  # 9
    z_ff = encode(net, again_f, draws.eps[:, 2])
    x_rf = net.decode(z_rf.sample, noise_rf, None)  # 10
    x_ff = net.decode(z_ff.sample, noise_ff, None)
    elbo_x = h.s * elbo(kind, h.beta_rec, h.beta_kl, x, x_r, z)  # 11
    elbo_r = elbo(kind, h.beta_rec, h.beta_neg, x_r, x_rf, z_rf)  # 12
    elbo_f = elbo(kind, h.beta_rec, h.beta_neg, x_f, x_ff, z_ff)  # 13
    exp_elbo_r = 1 / h.alpha * torch.exp(h.alpha * h.s * elbo_r)  # 14
    exp_elbo_f = 1 / h.alpha * torch.exp(h.alpha * h.s * elbo_f)  # 15
    l_e = elbo_x - 0.5 * (exp_elbo_r + exp_elbo_f)  # 16

    # Not in the paper: the same, in the parts whose gradients add up to the whole's.
    steep_r = 0.5 * h.s * torch.exp(h.alpha * h.s * elbo_r).detach()
    steep_f = 0.5 * h.s * torch.exp(h.alpha * h.s * elbo_f).detach()
    parts = {
        "rec(x)": -h.s * h.beta_rec * l_rec(kind, x, x_r),
        **kl_parts("kl(x)", -h.s, h.beta_kl, z),
        "rec(x_r)": steep_r * h.beta_rec * l_rec(kind, x_r, x_rf),
        **kl_parts("kl(x_r)", steep_r, h.beta_neg, z_rf),
        "rec(x_f)": steep_f * h.beta_rec * l_rec(kind, x_f, x_ff),
        **kl_parts("kl(x_f)", steep_f, h.beta_neg, z_ff),
    }
    return Ascended(l_e.mean(), {name: part.mean() for name, part in parts.items()}, z)


def algorithm_2_decoder(net: Networks, h: Hyper, x: Tensor, z: Tensor, draws: Draws, sg: Stop = stop) -> Ascended:
    """`z` is line 5's."""
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    kind = h.reconstruction
    z_f = draws.z  # 6
    x_r = net.decode(z, noise_r, None)  # 20
    x_f = net.decode(z_f, noise_f, draws.mixing)
    z_rf = encode(net, x_r, draws.eps[:, 1])  # 21
    z_ff = encode(net, x_f, draws.eps[:, 2])
    x_rf = sg(net.decode(z_rf.sample, noise_rf, None))  # 22
    x_ff = sg(net.decode(z_ff.sample, noise_ff, None))
    elbo_x = -h.beta_rec * l_rec(kind, x, x_r)  # 23, with the sign that line 26 and equation 7 imply
    elbo_r = elbo(kind, h.gamma_r * h.beta_rec, h.beta_kl, x_r, x_rf, z_rf)  # 24
    elbo_f = elbo(kind, h.gamma_r * h.beta_rec, h.beta_kl, x_f, x_ff, z_ff)  # 25
    l_d = h.s * (elbo_x + 0.5 * (elbo_r + elbo_f))  # 26

    parts = {
        "rec(x)": -h.s * h.beta_rec * l_rec(kind, x, x_r),
        **kl_parts("kl(x_r)", -0.5 * h.s, h.beta_kl, z_rf),
        **kl_parts("kl(x_f)", -0.5 * h.s, h.beta_kl, z_ff),
    }
    if h.gamma_r:
        parts["rec(x_r)"] = -0.5 * h.s * h.gamma_r * h.beta_rec * l_rec(kind, x_r, x_rf)
        parts["rec(x_f)"] = -0.5 * h.s * h.gamma_r * h.beta_rec * l_rec(kind, x_f, x_ff)
    return Ascended(l_d.mean(), {name: part.mean() for name, part in parts.items()})


class Fake(NamedTuple):
    """What equation 7's D(z) needs beside z, and what the passes behind it need."""

    z: Tensor
    noise: Tensor | None
    mixing: Mixing | None
    eps: Tensor
    noise_again: Tensor | None


def equation_7(net: Networks, h: Hyper, x: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Both losses, to be descended, with squared errors.

    Section 9.1 counts reconstructions among the generated images, so z is from the posterior in one half of
    the cases and from the prior in the other.
    """
    noise_r, noise_f, noise_rf, noise_ff = noises(draws)
    mu, logvar = net.encode(x)
    posterior = mu + torch.exp(0.5 * logvar) * draws.eps[:, 0]
    fakes = [
        Fake(posterior, noise_r, None, draws.eps[:, 1], noise_rf),
        Fake(draws.z, noise_f, draws.mixing, draws.eps[:, 2], noise_ff),
    ]

    def divergence(mu: Tensor, logvar: Tensor) -> Tensor:
        return -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp(), dim=1)

    def squares(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bchw,bchw->b", a - b, a - b)

    real = h.beta_rec * squares(x, net.decode(posterior, noise_r, None)) + h.beta_kl * divergence(mu, logvar)
    push: list[Tensor] = []
    pull: list[Tensor] = []
    for fake in fakes:
        image = net.decode(fake.z, fake.noise, fake.mixing)
        mu, logvar = net.encode(image)
        again = net.decode(mu + torch.exp(0.5 * logvar) * fake.eps, fake.noise_again, None)
        exponent = h.beta_rec * squares(image, again) + h.beta_neg * divergence(mu, logvar)
        push.append(0.5 * torch.exp(-2 * h.s * exponent))

        image = net.decode(fake.z.detach(), fake.noise, fake.mixing)
        mu, logvar = net.encode(image)
        fooled = h.beta_kl * divergence(mu, logvar)
        pull.append(fooled + h.gamma_r * h.beta_rec * squares(image, again.detach()))
    l_e = h.s * real.mean() + torch.cat(push).mean()
    l_d = h.s * h.beta_rec * squares(x, net.decode(posterior.detach(), noise_r, None)).mean()
    return l_e, l_d + h.s * torch.cat(pull).mean()


# --- The comparison -------------------------------------------------------------------------------


def paper(case: Case, h: Hyper) -> Step:
    return printed(case, h, algorithm_2_encoder, algorithm_2_decoder)


def check(case: Case, h: Hyper) -> None:
    compare(package(case, h.settings()), paper(case, h))


def every_term_matters(case: Case, h: Hyper) -> None:
    """Each makes a part of the gradient far above the tolerance."""
    ascended = algorithm_2_encoder(case.net, h, case.x, case.draws)
    assert ascended.z is not None
    decoded = algorithm_2_decoder(case.net, h, case.x, ascended.z.sample.detach(), case.draws)
    for update, of in ((ascended, case.net.phi), (decoded, case.net.theta)):
        found = shares(update, of)
        assert min(found.values()) > 0.01, found


SETTINGS = [
    pytest.param(
        Hyper(stop_gradient=stop_gradient, gamma_r=gamma_r, alpha=alpha, reconstruction=reconstruction),
        id=f"{stop_gradient}-gamma{gamma_r}-alpha{alpha}-{reconstruction}",
    )
    for stop_gradient in ("none", "reencoded")
    for gamma_r in (0.3, 0.0)
    for alpha in (2.0, 1.0)
    for reconstruction in ("mse", "l1", "bce")
]


@EVERY_CASE
@pytest.mark.parametrize("h", SETTINGS)
def test_algorithm_2(make: Callable[..., Case], h: Hyper) -> None:
    check(make(h.reconstruction), h)


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
@pytest.mark.parametrize("blending", [False, True], ids=["whole", "blending"])
@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("mixing", [False, True], ids=["plain", "mixing"])
@pytest.mark.parametrize("gamma_r", [0.3, 0.0])
def test_stages_noise_and_mixing(stop_gradient: str, blending: bool, noise: bool, mixing: bool, gamma_r: float) -> None:
    h = Hyper(stop_gradient=stop_gradient, gamma_r=gamma_r)
    check(style(h.reconstruction, blending=blending, noise=noise, mixing=mixing, seed=10), h)


@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("mixing", [False, True], ids=["plain", "mixing"])
def test_noise_and_mixing_of_plain_networks(noise: bool, mixing: bool) -> None:
    check(mlp(noise=noise, mixing=mixing, seed=20), Hyper())


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_official_networks(stop_gradient: str) -> None:
    h = Hyper(stop_gradient=stop_gradient)
    check(style(h.reconstruction, variant="official", seed=30), h)


LABELS = (2, 0, 0, 1)
"""Of BATCH images; halves of two batches that changed places would have others."""


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("gamma_r", [0.3, 0.0])
def test_labels(stop_gradient: str, variant: str, gamma_r: float) -> None:
    """Every pass of the paper's has the labels of X, those of Z_f as well."""
    h = Hyper(stop_gradient=stop_gradient, gamma_r=gamma_r)
    check(style(h.reconstruction, variant=variant, labels=LABELS, seed=35), h)


OF_GROUPS = Hyper(beta_rec=0.01, beta_kl={"class": 2.7, "content": 1.2}, beta_neg={"class": 9.0, "content": 27.0})


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
@pytest.mark.parametrize("class_from", ["another", "itself"])
@pytest.mark.parametrize(
    "betas", [{}, {"beta_kl": 2.1}, {"beta_kl": 2.1, "beta_neg": 15.0}], ids=["each", "of-fakes", "one"]
)
def test_groups(stop_gradient: str, class_from: str, betas: dict[str, float]) -> None:
    """Two encoders (appendix 9.3): a KL divergence for each group of z, with weights of its own. Of X, and of X alone,
    the class encoder sees another image."""
    h = replace(OF_GROUPS, stop_gradient=stop_gradient, **betas)  # type: ignore[arg-type]
    case = translation(class_from, seed=50)
    check(case, h)
    every_term_matters(case, h)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_labels_of_residual_networks(norm: str) -> None:
    h = Hyper(beta_rec=0.03, beta_kl=3.0, s=0.002)
    case, other = residual(norm=norm, labels=LABELS), residual(norm=norm, labels=(*LABELS[:3], 2))
    check(case, h)
    ours, printed = package(case, h.settings()), paper(other, h)
    assert min(distance(ours.encoder, printed.encoder), distance(ours.decoder, printed.decoder)) > 1e-4


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_residual_networks(variant: str, norm: str, stop_gradient: str) -> None:
    h = Hyper(stop_gradient=stop_gradient, beta_rec=0.03, beta_kl=3.0, s=0.002)
    case = residual(variant, norm, seed=35)
    check(case, h)
    every_term_matters(case, h)


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_bce_of_saturated_pixels(stop_gradient: str) -> None:
    """Predicted probabilities end at 1e-6 from 0 and 1, and their gradients with them; targets do not."""
    h = Hyper(reconstruction="bce", stop_gradient=stop_gradient)
    case = mlp(h.reconstruction, saturated=True, seed=40)
    image = case.net.decode(case.draws.z, None, None).flatten(1)
    assert (image[:, 0] == 1).all() and (image[:, 1] == -1).all()
    check(case, h)


@EVERY_CASE
def test_scale_is_the_inverse_of_the_dimensions(make: Callable[..., Case]) -> None:
    case = make()
    h = Hyper(s=1 / case.x[0].numel())
    settings = h.settings().model_copy(update={"scale": None})
    compare(package(case, settings), paper(case, h))


@EVERY_CASE
@pytest.mark.parametrize("gamma_r", [0.3, 0.0])
def test_equation_7(make: Callable[..., Case], gamma_r: float) -> None:
    h = Hyper(gamma_r=gamma_r)
    case = make(h.reconstruction, seed=50)
    l_e, l_d = equation_7(case.net, h, case.x, case.draws)
    ours = package(case, h.settings())
    assert distance(ours.encoder, Update(l_e.item(), gradients(l_e, case.net.phi, keep=True))) < TOLERANCE
    assert distance(ours.decoder, Update(l_d.item(), gradients(l_d, case.net.theta))) < TOLERANCE


# --- Without autograd -----------------------------------------------------------------------------


@pytest.mark.parametrize("reconstruction", ["mse", "bce"])
@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_gradients_are_derivatives(stop_gradient: str, reconstruction: str) -> None:
    """The package's gradients are the slopes of the paper's losses; what is stopped keeps its first value."""
    h = Hyper(stop_gradient=stop_gradient, reconstruction=reconstruction)
    case = mlp(h.reconstruction, seed=60)
    net = case.net
    ours = package(case, h.settings())

    expected, found = slopes(
        ours.encoder, net.phi, lambda sg: algorithm_2_encoder(net, h, case.x, case.draws, sg).total
    )
    assert found == pytest.approx(expected, rel=1e-7)
    expected, found = slopes(
        ours.decoder, net.theta, lambda sg: algorithm_2_decoder(net, h, case.x, ours.z, case.draws, sg).total
    )
    assert found == pytest.approx(expected, rel=1e-7)


# --- Algorithm 2 as a loop ------------------------------------------------------------------------


@pytest.mark.parametrize("stop_gradient", ["none", "reencoded"])
def test_three_iterations(stop_gradient: str) -> None:
    """Lines 3 to 29: the decoder's update sees the new encoder, and the old one's Z."""
    h = Hyper(stop_gradient=stop_gradient)
    ours, printed = mlp(h.reconstruction, seed=70), mlp(h.reconstruction, seed=70)
    start = [value.detach().clone() for value in (*parameters(ours.encoder).values(), *ours.net.theta.values())]

    encoder_objective, decoder_objective = h.settings().build(ours.encoder, ours.decoder, 4, ours.dimensions)
    encoder_adam = torch.optim.Adam(ours.encoder.parameters(), lr=0.01)
    decoder_adam = torch.optim.Adam(ours.decoder.parameters(), lr=0.01)
    phi_adam = torch.optim.Adam(printed.net.phi.values(), lr=0.01, maximize=True)
    theta_adam = torch.optim.Adam(printed.net.theta.values(), lr=0.01, maximize=True)
    for iteration in range(3):
        draws = draw(ours.decoder, 4, 71 + iteration, noise=True, mixing=True)
        x = torch.tanh(torch.randn_like(ours.x))

        freeze(ours.decoder, True)
        loss, _, z, _ = encoder_objective(x, ours.cond, draws)
        encoder_adam.zero_grad()
        loss.backward()
        encoder_adam.step()
        freeze(ours.decoder, False)
        freeze(ours.encoder, True)
        loss, _, _ = decoder_objective(x, z, ours.cond, draws)
        decoder_adam.zero_grad()
        loss.backward()
        decoder_adam.step()
        freeze(ours.encoder, False)

        net = printed.net
        ascended = algorithm_2_encoder(net, h, x, draws)
        assert ascended.z is not None
        for name, gradient in gradients(ascended.total, net.phi).items():
            net.phi[name].grad = gradient
        phi_adam.step()
        ascended = algorithm_2_decoder(net, h, x, ascended.z.sample.detach(), draws)
        for name, gradient in gradients(ascended.total, net.theta).items():
            net.theta[name].grad = gradient
        theta_adam.step()

    end = [*ours.net.phi.values(), *ours.net.theta.values()]
    reference = [*printed.net.phi.values(), *printed.net.theta.values()]
    moved = norm(one - other for one, other in zip(reference, start, strict=True))
    assert moved > 0.1
    assert norm(one - other for one, other in zip(end, reference, strict=True)) < 1e-8 * moved


# --- Whether these tests can fail -----------------------------------------------------------------


@EVERY_CASE
@pytest.mark.parametrize("h", SETTINGS)
def test_every_term_matters(make: Callable[..., Case], h: Hyper) -> None:
    """In the cases of `test_algorithm_2`; others see to it themselves."""
    every_term_matters(make(h.reconstruction), h)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "stop_gradient": ({"stop_gradient": "reencoded"}, "encoder"),
    "gamma_r": ({"gamma_r": 0.0}, "decoder"),
    "gamma_r a tenth": ({"gamma_r": 0.03}, "decoder"),
    "alpha": ({"alpha": 1.0}, "encoder"),
    "beta_neg": ({"beta_neg": 8.1}, "encoder"),
    "beta_kl": ({"beta_kl": 0.91}, "both"),
    "beta_rec": ({"beta_rec": 0.201}, "both"),
    "s": ({"s": 0.0031}, "both"),
}


WRONG_OF_GROUPS: dict[str, tuple[dict[str, Any], str]] = {
    "beta_kl of the class": ({"beta_kl": {"class": 4.0, "content": 1.2}}, "both"),
    "beta_kl of the content": ({"beta_kl": {"class": 2.7, "content": 1.8}}, "both"),
    "beta_kl swapped": ({"beta_kl": {"class": 1.2, "content": 2.7}}, "both"),
    "beta_neg of the class": ({"beta_neg": {"class": 13.0, "content": 27.0}}, "encoder"),
    "beta_neg of the content": ({"beta_neg": {"class": 9.0, "content": 40.0}}, "encoder"),
    "beta_neg swapped": ({"beta_neg": {"class": 27.0, "content": 9.0}}, "encoder"),
}


@pytest.mark.parametrize(
    ("make", "h", "change", "seen_by", "least"),
    [
        *(
            pytest.param(make, Hyper(), *wrong, 1e-4, id=f"{name}-{case}")
            for name, wrong in WRONG.items()
            for case, make in CASES.items()
        ),
        *(
            pytest.param(partial(translation, "another", seed=50), OF_GROUPS, *wrong, 0.03, id=name)
            for name, wrong in WRONG_OF_GROUPS.items()
        ),
    ],
)
def test_a_wrong_setting_shows(
    make: Callable[[], Case], h: Hyper, change: dict[str, Any], seen_by: str, least: float
) -> None:
    """In the update that it concerns, and in that one only; a wrong beta of a group is worse than 3 percent."""
    case = make()
    ours, other = package(case, h.settings()), paper(case, replace(h, **change))
    for name in ("encoder", "decoder"):
        difference = distance(getattr(ours, name), getattr(other, name))
        if seen_by in (name, "both"):
            assert difference > least
        else:
            assert difference < TOLERANCE
    if "stop_gradient" in change:  # The same loss: its gradient alone tells the two apart.
        assert ours.encoder.loss == pytest.approx(other.encoder.loss, rel=TOLERANCE)
        apart = [ours.encoder.gradients[k] - other.encoder.gradients[k] for k in case.net.phi]
        assert norm(apart) > 0.01 * norm(other.encoder.gradients.values())


@EVERY_CASE
@pytest.mark.parametrize("wrong", ["mixing", "noise", "eps", "noise order", "eps order"])
def test_a_wrong_draw_shows(make: Callable[..., Case], wrong: str) -> None:
    case = make()
    draws = case.draws
    assert draws.noise is not None
    other = {
        "mixing": draws._replace(mixing=None),
        "noise": draws._replace(noise=None),
        "eps": draws._replace(eps=0.99 * draws.eps),
        "noise order": draws._replace(noise=draws.noise[:, [0, 1, 3, 2]]),
        "eps order": draws._replace(eps=draws.eps[:, [0, 2, 1]]),
    }[wrong]
    ours, printed = package(case, Hyper().settings()), paper(replace(case, draws=other), Hyper())
    assert distance(ours.encoder, printed.encoder) > 1e-4
    assert distance(ours.decoder, printed.decoder) > 1e-4


def test_a_wrong_label_shows() -> None:
    case, other = style(labels=LABELS), style(labels=(*LABELS[:3], 2))
    ours, printed = package(case, Hyper().settings()), paper(other, Hyper())
    assert distance(ours.encoder, printed.encoder) > 1e-4
    assert distance(ours.decoder, printed.decoder) > 1e-4


def test_a_wrong_blend_shows() -> None:
    case, whole = style(), style(blending=False)
    assert case.cond is not None
    ours = package(case, Hyper().settings())
    printed = paper(whole, Hyper())
    assert distance(ours.encoder, printed.encoder) > 1e-4
    assert distance(ours.decoder, printed.decoder) > 1e-4
