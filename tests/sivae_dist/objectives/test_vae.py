"""The plain VAE, and the warm-up of the introspective objectives, against the joint loss of a VAE in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sivae_dist.objectives import IntroSettings, SoftIntroSettings, VaeSettings
from tests.sivae_dist.objectives.rendering import (
    EVERY_CASE,
    TOLERANCE,
    Case,
    Step,
    Update,
    compare,
    distance,
    encode,
    gradients,
    kl,
    l_rec,
    noises,
    norm,
    package,
    style,
)

BETA_REC, BETA_KL, S = 0.2, 0.9, 0.003


def joint(case: Case, reconstruction: str, beta_rec: float = BETA_REC, beta_kl: float = BETA_KL, s: float = S) -> Step:
    """Both gradients of s (beta_rec L + beta_kl KL), from one graph. The decoder's loss leaves out what is constant."""
    net = case.net
    z = encode(net, case.x, case.draws.eps[:, 0])
    error = l_rec(reconstruction, case.x, net.decode(z.sample, noises(case.draws)[0], None)).mean()
    divergence = kl(z).mean()
    for part in (error, divergence):  # Neither is lost beside the other.
        assert norm(gradients(part, net.phi, keep=True).values()) > 0.1
    loss = s * (beta_rec * error + beta_kl * divergence)
    encoder = Update(loss.item(), gradients(loss, net.phi, keep=True))
    decoder = Update(s * beta_rec * error.item(), gradients(loss, net.theta))
    return Step(encoder, decoder, z.sample.detach())


def ours(case: Case, name: str, reconstruction: str) -> Step:
    """By the plain VAE or in the warm-up of another objective, whose own settings then have no part in it."""
    common: dict[str, Any] = {"beta_rec": BETA_REC, "beta_kl": BETA_KL, "scale": S, "reconstruction": reconstruction}
    settings = {
        "vae": VaeSettings(**common),
        "soft_intro": SoftIntroSettings(beta_neg=8.0, gamma_r=0.3, **common),
        "intro": IntroSettings(beta_neg=8.0, margin=1e3, **common),
    }[name]
    return package(case, settings, warming_up=name != "vae")


@EVERY_CASE
@pytest.mark.parametrize("name", ["vae", "soft_intro", "intro"])
@pytest.mark.parametrize("reconstruction", ["mse", "l1", "bce"])
def test_both_updates_are_one_joint_step(make: Callable[..., Case], name: str, reconstruction: str) -> None:
    case = make(reconstruction, seed=80)
    compare(ours(case, name, reconstruction), joint(case, reconstruction))


@pytest.mark.parametrize("blending", [False, True], ids=["whole", "blending"])
@pytest.mark.parametrize("noise", [False, True], ids=["quiet", "noisy"])
@pytest.mark.parametrize("variant", ["paper", "official"])
def test_stages_and_noise(blending: bool, noise: bool, variant: str) -> None:
    case = style(blending=blending, noise=noise, variant=variant, seed=90)
    compare(ours(case, "vae", "mse"), joint(case, "mse"))


@EVERY_CASE
def test_scale_is_the_inverse_of_the_dimensions(make: Callable[..., Case]) -> None:
    case = make()
    settings = VaeSettings(beta_rec=BETA_REC, beta_kl=BETA_KL)
    compare(package(case, settings), joint(case, "mse", s=1 / case.x[0].numel()))


@EVERY_CASE
@pytest.mark.parametrize(
    ("change", "decoder_sees"), [({"beta_rec": 0.201}, True), ({"beta_kl": 0.91}, False), ({"s": 0.0031}, True)]
)
def test_a_wrong_setting_shows(make: Callable[..., Case], change: dict[str, float], decoder_sees: bool) -> None:
    case = make()
    step, other = ours(case, "vae", "mse"), joint(case, "mse", **change)
    assert distance(step.encoder, other.encoder) > 1e-4
    assert (distance(step.decoder, other.decoder) > 1e-4) == decoder_sees
    assert decoder_sees or distance(step.decoder, other.decoder) < TOLERANCE


@EVERY_CASE
def test_a_wrong_draw_shows(make: Callable[..., Case]) -> None:
    case = make()
    step = ours(case, "vae", "mse")
    for draws in (case.draws._replace(noise=None), case.draws._replace(eps=0.99 * case.draws.eps)):
        other = joint(Case(**(vars(case) | {"draws": draws})), "mse")
        assert distance(step.encoder, other.encoder) > 1e-4
        assert distance(step.decoder, other.decoder) > 1e-4
    latent = torch.randn_like(case.draws.z)
    same = joint(Case(**(vars(case) | {"draws": case.draws._replace(z=latent, mixing=None)})), "mse")
    compare(step, same)  # of generated images it knows nothing
